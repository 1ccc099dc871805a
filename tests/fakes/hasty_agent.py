"""The real agent, which looks at its machine again every second or two rather than every few minutes.

Run as a program: `python -m tests.fakes.hasty_agent serve …`.
"""

from functools import partial
from unittest.mock import patch

from agent.lookout import Lookout
from agent.main import main

if __name__ == "__main__":
    with patch("agent.service.Lookout", partial(Lookout, every_s=2.0, least_s=0.5)):
        main()
