"""Goes on with a run whose store or cluster is away for a while; a stage that runs meanwhile goes on by itself.

1. Only what is safe to do again may be done through it: what was away may have done it, unheard.
2. A folder, or a target file, that fails is not away: trying again would not mend it. Nor is a refusal.
3. A person hears once that something does not answer, and once that it answers again.
4. The first interrupt ends the wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from launcher import clock
from launcher.errors import UnavailableError
from launcher.executors.port import AwayError, Executor
from launcher.followers import TargetBehindError
from launcher.interrupts import Interrupts
from launcher.retry import outlasted
from launcher.settings import Settings
from launcher.workspace import translated

__all__ = ["Outlasting"]

T = TypeVar("T")

#: The longest wait before what was away is asked again.
_AGAIN_SECONDS: Final = 5.0


class Outlasting:
    """Of one launcher. ``note`` shows a line."""

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        interrupts: Interrupts,
        note: Callable[[str], None],
    ) -> None:
        self._settings, self._executor = settings, executor
        self._interrupts, self._note = interrupts, note
        #: What does not answer, and was said not to, by the kind of its error.
        self._away: dict[type, str] = {}

    def do(self, step: Callable[[], T]) -> T:
        """What ``step`` returns, done again until store and cluster answer, for as long as the settings say.

        Raises KeyboardInterrupt where an interrupt came meanwhile, else the last error.
        """

        def attempt() -> T:
            with translated():
                return step()

        done = outlasted(
            attempt,
            seconds=self._settings.patience_seconds,
            is_passing=self._is_passing,
            before_wait=self._tell,
            sleep=lambda seconds: self._interrupts.wait(lambda: clock.sleep(seconds)),
            longest_seconds=_AGAIN_SECONDS,
        )
        # A step may do without the cluster, as when the store has a stage's result already.
        if self._away and self._executor.answers():
            self._note(f"the {[*self._away.values()][-1]} answers again")
            self._away.clear()
        return done

    def _tell(self, error: BaseException) -> None:
        if self._interrupts.asked:
            raise KeyboardInterrupt
        cluster = isinstance(error, AwayError)
        kind = type(error) if cluster else UnavailableError
        if kind not in self._away:
            patience = self._settings.patience_seconds
            self._note(f"{error}; trying again for up to {patience:g} s")
        self._away[kind] = "cluster" if cluster else "store"

    def _is_passing(self, error: BaseException) -> bool:
        """Whether it may be over when the same is tried again."""
        if isinstance(error, AwayError):
            return True
        bucket = self._settings.outlast_seconds > 0
        return (
            bucket
            and isinstance(error, UnavailableError)
            and not isinstance(error, TargetBehindError)
        )
