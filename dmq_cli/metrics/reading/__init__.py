"""Images of others: folders and archives, listed, put in order, decoded and looked at."""
