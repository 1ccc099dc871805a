"""What a person is told about an exception, and the exit code it means."""

import sys

from mediactl.errors import MediactlError, WaitTimeout


def report(error: Exception) -> int:
    """Prints the error on stderr and returns the exit code."""
    match error:
        case MediactlError():
            if len(error.fields) > 1:
                _say(f"{error.reason}: {len(error.fields)} things are wrong with the request:")
                for field, message in error.fields:
                    print(f"  {field}: {message}", file=sys.stderr)
            else:
                _say(f"{error.reason}: {error.message}")
            return error.exit_code
        case WaitTimeout():
            _say(str(error))
            return error.exit_code
        case OSError():
            _say(str(error))
            return 1
        case UnicodeEncodeError():
            # Bytes of the command line that are no text. Names of files may be such; nothing else that travels can.
            shown = ascii(error.object)
            _say(f"INVALID_ARGUMENT: {shown} is not UTF-8: names of files may be anything, all else must be text")
            return 2
        case _:
            _say(f"INTERNAL: {type(error).__name__}: {error} (MEDIACTL_DEBUG=1 shows where)")
            return 1


def _say(text: str) -> None:
    print(f"mediactl: {text}", file=sys.stderr)
