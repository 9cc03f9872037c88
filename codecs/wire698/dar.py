"""DAR 数据访问结果: why a terminal did not do as asked (wire.md, section d)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple


class Dar(NamedTuple):
    """One data access result: its code (0..255), English and Chinese name."""

    code: int
    name: str
    zh: str

    @property
    def slug(self) -> str:
        """The name as a word for metrics and error fields: `hardware_failure`, `unknown_result_77`."""
        return self.name.replace("/", "_").replace("-", "_").replace(" ", "_").lower()


SUCCESS: Final = 0

_ROWS: Final = (
    Dar(0, "success", "成功"),
    Dar(1, "hardware failure", "硬件失效"),
    Dar(2, "temporarily unavailable", "暂时失效"),
    Dar(3, "read/write refused", "拒绝读写"),
    Dar(4, "object undefined", "对象未定义"),
    Dar(5, "interface class mismatch", "对象接口类不符合"),
    Dar(6, "object does not exist", "对象不存在"),
    Dar(7, "type mismatch", "类型不匹配"),
    Dar(8, "out of range", "越界"),
    Dar(9, "data block unavailable", "数据块不可用"),
    Dar(10, "framed transfer cancelled", "分帧传输已取消"),
    Dar(11, "not in framed transfer", "不处于分帧传输状态"),
    Dar(12, "block write cancelled", "块写取消"),
    Dar(13, "no block write in progress", "不存在块写状态"),
    Dar(14, "bad block number", "数据块序号无效"),
    Dar(15, "password wrong/unauthorised", "密码错/未授权"),
    Dar(16, "baud rate cannot change", "通信速率不能更改"),
    Dar(17, "too many seasons", "年时区数超"),
    Dar(18, "too many day periods", "日时段数超"),
    Dar(19, "too many rates", "费率数超"),
    Dar(20, "security mismatch", "安全认证不匹配"),
    Dar(21, "repeated recharge", "重复充值"),
    Dar(22, "ESAM verification failed", "ESAM验证失败"),
    Dar(23, "security authentication failed", "安全认证失败"),
    Dar(24, "customer number mismatch", "客户编号不匹配"),
    Dar(25, "recharge count wrong", "充值次数错误"),
    Dar(26, "purchase over hoard limit", "购电超囤积"),
    Dar(27, "address abnormal", "地址异常"),
    Dar(28, "symmetric decryption error", "对称解密错误"),
    Dar(29, "asymmetric decryption error", "非对称解密错误"),
    Dar(30, "signature error", "签名错误"),
    Dar(31, "meter suspended", "电能表挂起"),
    Dar(32, "time tag invalid", "时间标签无效"),
    Dar(33, "request timeout", "请求超时"),
    Dar(34, "ESAM P1P2 wrong", "ESAM的P1P2不正确"),
    Dar(35, "ESAM LC wrong", "ESAM的LC错误"),
    Dar(36, "comparison failed", "比对失败"),
    Dar(255, "other", "其它"),
)

TABLE: Final = MappingProxyType({row.code: row for row in _ROWS})
"""Code to row. 33 to 36 are later additions; a terminal may send codes that no table has."""


def describe(code: int) -> Dar:
    """The row of a result code; a code without one is named `unknown result 77`, never refused."""
    row = TABLE.get(code)
    return row if row is not None else Dar(code, f"unknown result {code}", f"未知结果{code}")
