"""Costs as the papers count them: everything at the bits that the setting is named after. Megabytes are 10^6 bytes.

Bit operations are 2 x MACs x weight bits x activation bits of one network call, attention products included as if one factor
were a weight; the size is parameters x weight bits / 8, biases and norms included, scales left out. With the MACs and
parameters of the real architectures this gives what TAC (arXiv 2407.03917) prints, but for the entries below.

Table 2, TBops (LDM-4: 101.20 G MACs, LDM-8: 20.92 G):

* 6.48 and 4.86 (LDM-4 at W4A8 and W3A8), 2.68 and 1.34 (LDM-8 at W8A8 and W4A8) are these numbers;
* LDM-8 W3A8 is 1.004, printed as 1.01: three quarters of the rounded 1.34;
* LDM-4 W2A8 is 3.24, printed as 2.43: half of W3A8's 4.86, which is 12 bits x bits and no pair of 2 and 8;
* full precision: 107.17 and 22.17. The same formula at 32 bits gives 207.3 and 42.9; a MAC counted once 103.6 and 21.4, 3.4 %
  too little; the formula at 23 bits, float32's mantissa, 107.07 and 22.14, 0.1 % too little. The paper does not say which.

Table 2, sizes: 1179.9, 295.0, 147.5, 110.6 (LDM-8) and 1096.2, 137.0, 68.5 (LDM-4) are these numbers; LDM-4 W3A8 is 102.77,
printed as 102.75: three quarters of the rounded 137.0. QuEST's 330.6 and 189.9 are its own count, in MB of 2^20 bytes
(their difference, 140.7, is half a byte for each parameter in these), and 49 of them are something besides parameters x bits.

Table 1, sizes (DDIM's UNet of CIFAR-10: 35.746 M parameters):

* 13.4 (W3) is this number; 143.2 and 35.8 (full precision and W8) are it with the parameters rounded up to 35.8 M, 0.15 % more;
* 17.31, 17.22 and 17.26 (W4), 34.26 and 34.30 (W8) are not: 4 bits are 17.87 in MB of 10^6 bytes. They fit MB of 2^20 bytes, in
  which parameters x bits are 17.05 and 34.09: the rest is 0.17 (PTQ4DM), 0.21 (EfficientDM, TDQ; what biases and norms are
  in float32, once more) and 0.26 (Q-Diffusion and TAC), room for scales. Table 1 mixes both units in one column.

Table 5 gives 36.21 for W8A8 where Table 1 has 35.8: that network was made with PyTorch's quantization, which stores scales.

TFMQ-DM's Table III (Stable Diffusion, 859.52 M parameters) is in MB of 2^20 bytes, too: 3278.81 is 4 bytes a parameter to the
last digit; its 821.15 (8 bits) is 1.45 more than a byte for each, of which 1.27 are biases and norms kept in float32.
"""

from __future__ import annotations


def flat_bops(macs: int, weight: int, act: int) -> int:
    """Bit operations of these multiply-accumulates, all of them at `weight` and `act` bits."""
    return 2 * macs * weight * act


def flat_bytes(parameters: int, weight: int) -> float:
    """Bytes of all parameters at `weight` bits."""
    return parameters * weight / 8
