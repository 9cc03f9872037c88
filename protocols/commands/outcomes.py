"""From a terminal's answers to what came of a command: named values, or why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from messages import AckError, Alarm, Reading, Up, Value
from protocols.mapping import Mapper, Said
from protocols.plain import Printed
from wire698.access import (
    ActionResponseNormal,
    ActionResponseNormalList,
    ActionThenGetResponse,
    GetResponseMd5,
    GetResponseNext,
    GetResponseNormal,
    GetResponseNormalList,
    GetResponseRecord,
    GetResponseRecordList,
    SetResponseNormal,
    SetResponseNormalList,
    SetThenGetResponse,
)
from wire698.catalogue import column, lookup
from wire698.dar import describe
from wire698.link import ConnectResponse, ReleaseResponse
from wire698.pieces import Apdu, ClientApdu, ResultNormal, ResultRecord
from wire698.proxy import (
    ProxyActionResponseList,
    ProxyActionThenGetResponseList,
    ProxyGetResponseList,
    ProxyGetResponseRecord,
    ProxySetResponseList,
    ProxySetThenGetResponseList,
    ProxyTransCommandResponse,
)
from wire698.values import Dar, Data, Oad, Omd, Tag

from .meter645 import telegram_in
from .passages import methods_of, written_by
from .plans import Outcome, Plan, Step
from .states import decoded

_PLC_TRANSPARENT: Final = 0xF2097F
_PRINTED: Final = Printed()


def dar_error(dar: int, what: str) -> AckError:
    """What a data access result 数据访问结果 says, in English and Chinese."""
    row = describe(dar)
    return AckError(code=int(dar), name=row.slug, text=f"{what}: {row.name} {row.zh}")


def _bad_answer(step: Step, text: str) -> AckError:
    return AckError(name="bad_answer", text=f"{step.label}: {text}")


@dataclass(slots=True)
class _Found:
    """What the answers so far hold. `answered`: that something was done or read."""

    plan: Plan
    said: Said
    mapper: Mapper
    answered: bool = False
    error: AckError | None = None
    values: dict[str, Value] = field(default_factory=dict)
    errors: dict[str, Value] = field(default_factory=dict)
    done: dict[str, Value] = field(default_factory=dict)
    tables: list[Value] = field(default_factory=list)
    events: list[Value] = field(default_factory=list)
    readings: list[Up] = field(default_factory=list)
    extra: dict[str, Value] = field(default_factory=dict)
    rows: int = 0
    rows_left_out: int = 0

    def refuse(self, dar: int, what: str) -> None:
        """A refusal; the first one is the error."""
        self.errors[what] = {"code": int(dar), "name": describe(dar).slug}
        if self.error is None:
            self.error = dar_error(dar, what)

    # --- reading ------------------------------------------------------------------------------------------------

    def results(self, results: Sequence[ResultNormal], meter: str | None = None) -> None:
        """Attributes that were read, of the terminal or of a meter."""
        said = self.said if meter is None else self.said._replace(meter=meter)
        good: list[ResultNormal] = []
        for result in results:
            name = column(result.oad).name
            if result.data is None:
                reason = result.result if isinstance(result.result, Dar) else Dar(0)
                if reason:
                    self.refuse(reason, name)
                    continue
                self.values[name] = None  # "error: success" is a value that is missing (oddity 30)
            else:
                self._value(result, name, said)
            self.answered = True
            good.append(result)
        if good:
            self.readings.extend(self.mapper.of_results(good, said))

    def _value(self, result: ResultNormal, name: str, said: Said) -> None:
        assert result.data is not None
        known = decoded(result.oad, result.data, self.plan.quirks)
        if known is not None:
            self.values[name] = known
            return
        for message in self.mapper.of_results([result], said):
            if isinstance(message, Reading):
                for part, value in zip(message.columns, message.rows[0][2:], strict=True):
                    self.values[part.name] = value
            elif isinstance(message, Alarm):
                self._event(message)

    def records(self, records: Sequence[ResultRecord], meter: str | None = None) -> None:
        """Rows that were read."""
        said = self.said if meter is None else self.said._replace(meter=meter)
        good: list[ResultRecord] = []
        for record in records:
            if isinstance(record.result, Dar) and record.result:
                self.refuse(record.result, column(record.oad).name)
                continue
            self.answered = True
            good.append(record)
        for message in self.mapper.of_records(good, said):
            self.readings.append(message)
            if isinstance(message, Reading):
                room = max(0, self.plan.result_rows - self.rows)
                self.rows += len(message.rows[:room])
                self.rows_left_out += len(message.rows[room:])
                names: list[Value] = ["meter", "time", *(part.name for part in message.columns)]
                rows: list[Value] = [list(row) for row in message.rows[:room]]
                self.tables.append({"series": message.series, "columns": names, "rows": rows})
            elif isinstance(message, Alarm):
                self._event(message)

    def _event(self, alarm: Alarm) -> None:
        if self.rows >= self.plan.result_rows:
            self.rows_left_out += 1
            return
        self.rows += 1
        self.events.append(
            {
                "event": alarm.event,
                "phase": alarm.phase,
                "meter": alarm.meter,
                "record_no": alarm.record_no,
                "occurred_at": alarm.occurred_at,
                "ended_at": alarm.ended_at,
                "source": alarm.source,
                "values": dict(alarm.values),
            }
        )

    # --- doing --------------------------------------------------------------------------------------------------

    def did(self, what: str, dar: int, returned: Data | None = None) -> None:
        """One SET or ACTION."""
        if dar:
            self.refuse(dar, what)
            return
        self.answered = True
        self.done[what] = "success"
        if returned is not None and returned.tag != Tag.NULL:
            self.extra["returned"] = self.mapper.value(returned)

    def result(self, steps: int) -> dict[str, Value]:
        """All of it as one map; parts that are empty are left out."""
        found: dict[str, Value] = {}
        parts: tuple[tuple[str, Any], ...] = (
            ("values", self.values),
            ("records", self.tables),
            ("events", self.events),
            ("done", self.done),
            ("errors", self.errors),
        )
        found.update({name: part for name, part in parts if part})
        found.update(self.extra)
        if self.rows_left_out:
            found["rows_left_out"] = self.rows_left_out
        if len(self.plan.steps) > 1:
            found["steps_done"] = steps
            found["steps"] = len(self.plan.steps)
        return found


def outcome(plan: Plan, answers: Sequence[Apdu | None], said: Said, mapper: Mapper) -> Outcome:
    """What came of a plan: `answers` are those to its first steps, in order.

    ok with fewer answers than steps: go on with the next step. Raises nothing, whatever a terminal answers.
    """
    found = _Found(plan, said._replace(cause="read"), mapper)
    steps = 0
    for step, answer in zip(plan.steps, answers, strict=False):
        _take(step, answer, found)
        if _failed(plan, found):
            break
        steps += 1
    if not answers:
        found.error = AckError(name="no_answer", text="nothing has been answered")
    ok = bool(answers) and not _failed(plan, found)
    return Outcome(ok, None if ok else found.error, found.result(steps), found.readings)


def _failed(plan: Plan, found: _Found) -> bool:
    """A read has failed when nothing was read; anything else when any part was refused."""
    if found.error is None:
        return False
    return plan.command_class != "query" or found.error.code is None or not found.answered


def _take(step: Step, answer: Apdu | None, found: _Found) -> None:
    if answer is None or not _answers(step.apdu, answer):
        name = getattr(answer, "SERVICE", "nothing")
        found.error = found.error or _bad_answer(step, f"{name} is no answer to {step.apdu.SERVICE}")
        return
    before = (found.answered, len(found.errors))
    if not _take_read(answer, found) and not _take_done(step, answer, found):
        _take_other(step, answer, found)
    if found.error is None and not found.answered and (found.answered, len(found.errors)) == before:
        # A proxy answers with no result at all when its port fails (oddity 30).
        found.error = AckError(name="no_result", text=f"{step.label}: the answer holds no result")


def _answers(request: ClientApdu, answer: Apdu) -> bool:
    head = bytes((request.HEAD[0] | 0x80,)) + request.HEAD[1:]
    return head == answer.HEAD or (isinstance(answer, GetResponseNext) and head[0] == 0x85)


def _take_read(answer: Apdu, found: _Found) -> bool:
    match answer:
        case GetResponseNormal():
            found.results([answer.result])
        case GetResponseNormalList():
            found.results(answer.results)
        case GetResponseRecord():
            found.records([answer.record])
        case GetResponseRecordList():
            found.records(answer.records)
        case GetResponseNext():
            _take_blocks(answer, found)
        case ProxyGetResponseList():
            for target in answer.targets:
                found.results(target.results, _PRINTED[target.tsa])
        case ProxyGetResponseRecord():
            found.records([answer.record], _PRINTED[answer.tsa])
        case GetResponseMd5():
            name = column(answer.oad).name
            if isinstance(answer.md5, Dar):
                found.refuse(answer.md5, name)
            else:
                found.answered = True
                found.values[f"{name}.md5"] = answer.md5.hex().upper()
        case _:
            return False
    return True


def _take_blocks(answer: GetResponseNext, found: _Found) -> None:
    """An answer in blocks, put together by the machine."""
    if isinstance(answer.content, Dar):
        found.refuse(answer.content, "blocks")
        return
    results = [item for item in answer.content if isinstance(item, ResultNormal)]
    records = [item for item in answer.content if isinstance(item, ResultRecord)]
    found.results(results)
    found.records(records)


def _take_done(step: Step, answer: Apdu, found: _Found) -> bool:
    """SET and ACTION: what was asked must be what is answered, in the same order."""
    asked = [*(omd >> 8 for omd in methods_of(step.apdu)), *(int(oad) for oad in written_by(step.apdu))]
    if not asked:
        return False
    items = list(_items(answer))
    if asked != [target >> 8 if isinstance(target, Omd) else int(target) for target, _, _, _ in items]:
        found.error = _bad_answer(step, "the answer is about something else than was asked")
        return True
    for target, dar, returned, _ in items:
        is_method = isinstance(target, Omd)
        if is_method and target >> 8 == _PLC_TRANSPARENT and returned is not None and not dar:
            _frame(returned.value, found)
            returned = None  # noqa: PLW2901 - it is the frame
        # A method that a verb calls is known by what it does.
        named = step.label if is_method and len(items) == 1 and step.label != "apdu" else _name(target)
        found.did(named, dar, returned)
    found.results([read for _, _, _, read in items if read is not None])
    return True


_Item = tuple[Oad | Omd, Dar, Data | None, ResultNormal | None]


def _items(answer: Apdu) -> Iterator[_Item]:
    match answer:
        case SetResponseNormal():
            yield answer.oad, answer.dar, None, None
        case SetResponseNormalList():
            yield from ((item.oad, item.dar, None, None) for item in answer.results)
        case SetThenGetResponse():
            yield from ((item.oad, item.dar, None, item.get) for item in answer.results)
        case ActionResponseNormal():
            yield answer.omd, answer.dar, answer.data, None
        case ActionResponseNormalList():
            yield from ((item.omd, item.dar, item.data, None) for item in answer.results)
        case ActionThenGetResponse():
            yield from ((item.omd, item.dar, item.data, item.get) for item in answer.results)
        case ProxySetResponseList():
            yield from ((item.oad, item.dar, None, None) for target in answer.targets for item in target.results)
        case ProxySetThenGetResponseList():
            yield from ((item.oad, item.dar, None, item.get) for target in answer.targets for item in target.results)
        case ProxyActionResponseList():
            yield from ((item.omd, item.dar, item.data, None) for target in answer.targets for item in target.results)
        case ProxyActionThenGetResponseList():
            yield from (
                (item.omd, item.dar, item.data, item.get) for target in answer.targets for item in target.results
            )


def _name(target: Oad | Omd) -> str:
    if isinstance(target, Oad):
        return column(target).name
    info = lookup(target.oi)
    return f"{info.slug if info is not None else f'{target.oi:04X}'}.method{target.method}"


def _take_other(step: Step, answer: Apdu, found: _Found) -> None:
    match answer:
        case ProxyTransCommandResponse():
            found.extra["port"] = str(answer.port)
            if isinstance(answer.result, Dar):
                found.refuse(answer.result, f"transparent.{answer.port}")
            else:
                _frame(answer.result, found)
        case ConnectResponse() | ReleaseResponse():
            found.extra["result"] = int(answer.result)
            if answer.result:
                found.error = AckError(code=None, name="refused", text=f"{step.label}: result {answer.result}")
            else:
                found.answered = True
        case _:
            found.error = _bad_answer(step, f"{answer.SERVICE} is not known here")


def _frame(octets: Any, found: _Found) -> None:
    """Octets that a meter answered."""
    if isinstance(octets, bytes):
        found.answered = True
        found.extra["frame"] = octets.hex().upper()
        telegram = telegram_in(octets)
        if telegram is not None:
            found.extra["dlt645"] = telegram
