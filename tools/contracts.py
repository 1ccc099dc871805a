"""An import-linter contract that states what may be imported, not what may not.

A list of forbidden packages goes stale with every new dependency; this one cannot.
"""

import sys
from typing import Any

import grimp
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """The source packages import themselves, allowed modules and the standard library less what is denied.

    Direct imports are checked: what an allowed module imports in turn is for that module's own contracts.
    Options: `source_modules` and `allowed_modules` (packages, with all below them), `denied_standard_modules`
    (top-level names of the standard library).
    """

    type_name = "only"

    source_modules = fields.ListField(subfield=fields.StringField())
    allowed_modules = fields.ListField(subfield=fields.StringField())
    denied_standard_modules = fields.ListField(subfield=fields.StringField())

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        """Raises ValueError where a source package is not there: a renamed one must not pass unseen."""
        standard = sys.stdlib_module_names - set(_strings(self.denied_standard_modules))
        allowed = _strings(self.allowed_modules)
        violations: list[tuple[str, int, str]] = []
        for source in _strings(self.source_modules):
            if source not in graph.modules:
                raise ValueError(f"contract {self.name!r}: no module {source}")
            for importer in sorted({source} | graph.find_descendants(source)):
                for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                    top_level = imported.partition(".")[0]
                    if top_level in standard or any(_within(imported, p) for p in (source, *allowed)):
                        continue
                    details = graph.get_import_details(importer=importer, imported=imported)
                    violations.extend((importer, detail["line_number"], imported) for detail in details)
        return ContractCheck(kept=not violations, metadata={"violations": violations})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Prints one line an import: who, where, what."""
        for importer, line, imported in check.metadata["violations"]:
            output.print_error(f"{importer}:{line} imports {imported}")


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _strings(value: Any) -> list[str]:
    # import-linter declares fields as descriptors of the class and sets plain lists on the instance.
    return [str(item) for item in value]
