"""A model of Keras's that an optimizer of torch.optim trains, with a loss of torch.nn."""
import keras
import torch

keras.utils.set_random_seed(0)
inputs = keras.Input((8,))
hidden = keras.layers.Dense(4, name="hidden")(inputs)
model = keras.Model(inputs, keras.layers.Dense(4, name="head")(hidden))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
facts = {"losses": []}
for step in range(3):
    x, y = torch.rand(16, 8), torch.randint(4, (16,))
    logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    facts["losses"].append(loss.item())
facts["computed"] = [layer.compute_dtype for layer in model.layers[1:]]
facts["dtypes"] = [str(logits.dtype), str(loss.dtype), *(str(p.dtype) for p in optimizer.param_groups[0]["params"])]
