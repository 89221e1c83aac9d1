"""This machine: its processor, the frameworks that are installed here, and what each device can do."""
