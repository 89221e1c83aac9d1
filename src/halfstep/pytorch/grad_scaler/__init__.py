"""The public drop-in for ``torch.amp.GradScaler``."""
