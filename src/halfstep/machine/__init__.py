"""This machine: its processor, the frameworks installed here, and what each device can do."""
