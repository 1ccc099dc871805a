"""The agent: one on each box."""

import sys

# structlog and grpc load these where they find them, and an agent needs none: a tenth of an idle one's memory.
_UNWANTED = {"structlog": ("rich",), "grpc": ("grpc_health", "grpc_reflection", "grpc_status", "grpc_tools")}

for _eager, _names in _UNWANTED.items():
    _hidden = [name for name in _names if name not in sys.modules]
    if _eager not in sys.modules:
        # What the import system takes for "not to be had".
        sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type] # None is meant
        __import__(_eager)
        for _name in _hidden:
            del sys.modules[_name]
