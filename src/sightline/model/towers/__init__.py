"""How a transformers vision model of each type is run: tables of what differs, and few adapters."""
