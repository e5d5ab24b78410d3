"""Latency of a network in several forms, measured by turns; each form is a subject, a small object that conf/subject names."""

from typing import TYPE_CHECKING

from dmq_cli.late import late

if TYPE_CHECKING:
    from dmq_cli.deploy.bench.deployed import Deployed as Deployed
    from dmq_cli.deploy.bench.network import TimedNetwork as TimedNetwork
    from dmq_cli.deploy.bench.process import Process as Process
    from dmq_cli.deploy.bench.subjects import Eager as Eager
    from dmq_cli.deploy.bench.subjects import Nncf as Nncf
    from dmq_cli.deploy.bench.subjects import OpenVino as OpenVino
    from dmq_cli.deploy.bench.subjects import Subject as Subject
    from dmq_cli.deploy.bench.turns import by_turns as by_turns

__getattr__, __all__ = late(
    __name__,
    {
        "deployed": ("Deployed",),
        "network": ("TimedNetwork",),
        "process": ("Process",),
        "subjects": ("Eager", "Nncf", "OpenVino", "Subject"),
        "turns": ("by_turns",),
    },
)
