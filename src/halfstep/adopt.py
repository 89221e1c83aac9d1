"""The lines that make a precision permanent in a PyTorch script."""

from __future__ import annotations

from halfstep.recipes import Recipe, parse

_ONE_LINE = 'import halfstep; halfstep.enable("{recipe}")   # the first line of the script'

_BF16 = """\
# or by hand:
with torch.autocast("{device}", dtype=torch.bfloat16):
    loss = loss_fn(model(inputs), targets)
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)   # if you clip
optimizer.step()
optimizer.zero_grad()"""

_FP16 = """\
# or by hand:
scaler = torch.amp.GradScaler("{device}")                  # before the loop
with torch.autocast("{device}", dtype=torch.float16):
    loss = loss_fn(model(inputs), targets)
scaler.scale(loss).backward()
scaler.unscale_(optimizer)                                 # only if you clip
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)    # if you clip
scaler.step(optimizer)
scaler.update()
optimizer.zero_grad()"""

_TF32 = """\
# or by hand:
torch.set_float32_matmul_precision("high")
torch.backends.cudnn.allow_tf32 = True"""

_FP32 = """\
torch.set_float32_matmul_precision("highest")
torch.backends.cudnn.allow_tf32 = False"""

_BY_HAND = {"bf16": _BF16, "fp16": _FP16, "tf32": _TF32}


def adopt(precision: str, device: str) -> str:
    """Python lines that put ``precision`` into force on ``device`` for good.

    Recipes with options, and 16-bit weights, are given as the one line that runs exactly what was measured.
    """
    recipe = parse(precision)
    if recipe == Recipe("fp32"):
        return _FP32
    one = _ONE_LINE.format(recipe=recipe)
    plain = str(recipe) == recipe.name
    by_hand = _BY_HAND.get(recipe.name) if plain else None
    return one if by_hand is None else f"{one}\n\n{by_hand.format(device=device)}"
