"""The agent: one on each box."""

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    # structlog loads rich where it finds it, to draw tracebacks on terminals: a tenth of an idle agent's memory.
    sys.modules["rich"] = None  # type: ignore[assignment] # what the import system takes for "not to be had"
    import structlog  # noqa: F401

    del sys.modules["rich"]
