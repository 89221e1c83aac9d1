"""Trains a little, and goes wrong in the way that its argument names."""
import os
import signal
import sys
import time

import torch

fault = sys.argv[1] if len(sys.argv) > 1 else "none"
torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
x, y = torch.randn(32, 8), torch.randn(32, 1)
if fault == "no_training":
    print("nothing to do")
    sys.exit(0)


def run_out_of_memory(*call):
    """In the eighth step's forward pass, where a recipe computes it in 16 bits while weights are fp32."""
    if step == 7 and torch.is_autocast_enabled("cpu") and model.weight.dtype is torch.float32:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


if fault == "memory_in_bf16":
    model.register_forward_hook(run_out_of_memory)
for step in range(12):
    if step == 7:
        if fault == "raise":
            raise RuntimeError("boom at step 7")
        if fault == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            time.sleep(600)
        if fault == "leave":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            time.sleep(600)
        if fault == "ask":
            input("go on? ")
        if fault == "os_exit":
            os._exit(4)
        if fault == "nan":
            with torch.no_grad():
                model.weight.fill_(float("nan"))
    loss = (model(x) - y).float().square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"final {loss.item()!r}", os.environ.get("HALFSTEP_TRIAL", "no trial"))
