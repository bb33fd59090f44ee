"""The report page: `write_page(sweep, "report.html")`. It needs altair, vl-convert and jinja2; figures do not."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crossbar_sim.errors import InputError

if TYPE_CHECKING:
    from crossbar_sim.report.page import page_text, write_page


__all__ = ["page_text", "write_page"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for needed in ("altair", "vl_convert", "jinja2"):
        try:
            import_module(needed)
        except ImportError:
            raise InputError(
                "a report page needs altair, vl-convert and jinja2: pip install altair vl-convert-python jinja2"
            ) from None
    return getattr(import_module(f"{__name__}.page"), name)
