"""Lightning: the Trainer's own precision yields to the recipe, and what is logged goes into the record.

``self.log`` reaches the record where Lightning itself hands figures to its loggers: at each logging step in
training, once an epoch in validation. A tensor is not read before it has arrived from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from halfstep.integrations.attached import Attached
from halfstep.integrations.precision_plugins import let_yield, plugin_for_flag, scaler_for_flag

#: strategies that train inside an engine of their own, of which PyTorch's autograd and optimizers see nothing
_ENGINES = {"DeepSpeedStrategy": "DeepSpeed", "SingleDeviceXLAStrategy": "XLA", "XLAStrategy": "XLA"}

#: asked for, float64 stays what it is under every recipe
_FP64 = {"64-true", "64", "DoublePrecision"}

_WEIGHTS = {"BitsandbytesPrecision", "TransformerEnginePrecision"}


def install(lightning: ModuleType, attached: Attached) -> None:
    """Take over ``lightning.pytorch`` or ``pytorch_lightning``, just imported."""
    name = lightning.__name__
    attached.require(name, lightning.__version__)
    patches = attached.takeover.patches
    connectors = f"{name}.trainer.connectors"
    connector = import_module(f"{connectors}.accelerator_connector")._AcceleratorConnector
    flags = ("_precision_flag", "_precision_plugin_flag")
    patches.wrap(
        connector,
        "_check_and_init_precision",
        lambda original: choosing(original, attached, "Trainer", name, *flags),
    )
    loggers = import_module(f"{connectors}.logger_connector.logger_connector")._LoggerConnector
    patches.wrap(loggers, "log_metrics", lambda original: logging(original, attached))


def choosing(
    original: Callable[..., Any], attached: Attached, what: str, package: str, flag: str, plugin: str
) -> Callable[..., Any]:
    """Wrap the choice of a precision plugin: under a recipe it leaves formats and loss scaling to PyTorch.

    Args:
        what: ``Trainer`` or ``Fabric``, for words.
        flag: name of the connector's attribute with the precision's name.
        plugin: name of its attribute with a plugin that the script made, or None.
    """
    precision = import_module(f"{package}.plugins.precision")

    def _check_and_init_precision(connector: Any) -> Any:
        attached.driven_by("lightning" if what == "Trainer" else "fabric")
        made = getattr(connector, plugin)
        asked = getattr(connector, flag) if made is None else type(made).__name__
        told = str(getattr(made, "precision", asked))
        if told != "32-true":
            attached.asks_for(f"{what}(precision={asked!r})" if made is None else asked, told)
        kinds = {asked} if made is None else _kinds(made)
        if attached.as_is or kinds & _FP64:
            return original(connector)
        strategies = _kinds(connector.strategy)
        _refuse_what_cannot_yield(attached, asked, kinds, strategies)
        setattr(connector, flag, "32-true")
        sharded = "FSDPStrategy" in strategies
        device = attached.takeover.arithmetic.device
        if made is None and not sharded:
            setattr(connector, plugin, plugin_for_flag(asked, precision, device))
        elif type(made).__module__ == "halfstep.lightning":
            setattr(connector, plugin, None)
        chosen = original(connector)
        if made is None and sharded:
            chosen.scaler = scaler_for_flag(asked, device)
        elif chosen is not made and hasattr(made, "scaler"):
            chosen.scaler = made.scaler
        let_yield(chosen, precision, attached)
        return chosen

    return _check_and_init_precision


def _kinds(made: object) -> set[str]:
    """The names of its class and of those that this is derived from."""
    return {cls.__name__ for cls in type(made).__mro__}


def _refuse_what_cannot_yield(attached: Attached, asked: str, kinds: set[str], strategies: set[str]) -> None:
    for strategy in strategies & _ENGINES.keys():
        attached.refuse(
            f"Lightning's {strategy} trains inside {_ENGINES[strategy]}, which halfstep does not take over; "
            "use another strategy, such as ddp or fsdp, or run with --precision as-is."
        )
    if kinds & _WEIGHTS or asked.startswith("transformer-engine"):
        attached.refuse(
            f"Lightning's precision {asked} replaces the model's layers by its own, which yield to no recipe; "
            "take it out of the Trainer, or run with --precision as-is."
        )


def logging(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    """Wrap a method that logs: its figures go into the record, too."""

    def log_metrics(owner: Any, metrics: Mapping[str, Any], step: int | None = None) -> None:
        attached.logged(metrics)
        original(owner, metrics, step)

    return log_metrics
