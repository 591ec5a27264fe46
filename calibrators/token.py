"""token: no calibration; each row (of an attention's values: each column) gets its range at run time."""

from __future__ import annotations

from dataclasses import replace

from onnxptq.calibrators.base import Calibrator, Search
from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site


class Token(Calibrator):
    """For dynamic schemes: no walk over the samples, no parameters except the width."""

    name = "token"

    def search(self, site: Site, choice: Choice) -> Search:
        """No walk."""
        scheme = schemes()[choice.scheme]
        if not scheme.dynamic:
            raise InputError(
                f"site {site.key}: calibrator 'token' is for schemes that take ranges at run time, not "
                f"{choice.scheme!r}"
            )
        if choice.granularity == "column" and site.role is not Role.VALUE:
            raise InputError(
                f"site {site.key}: ranges of columns are for an attention's values, not for {site.role}; use "
                f"granularity 'row'"
            )
        yield from ()
        granularity = choice.options.get("geometry", choice.granularity)
        return replace(choice, granularity=granularity, params=scheme.params(choice.bits))
