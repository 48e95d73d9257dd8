"""What users put into their requests as text: names, places, paths, numbers, in large variety.

A generator takes a random source and what stands in its parentheses, and returns the text, which is also the value that
a call must carry. Generators whose text and value differ are in slots.py.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable

from training.data.material import pools

HEX = "0123456789abcdef"
POOLS = pools("pools")


def made_up(rng: random.Random) -> str:
    """A word nobody knows, so that copying can't be replaced by remembering."""
    return "".join(rng.choice(POOLS["syllable"]) for _ in range(rng.randint(2, 3))).capitalize()


def letters(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


def city(rng: random.Random, _: str) -> str:
    name = made_up(rng) if rng.random() < 0.12 else rng.choice(POOLS["city"])
    if rng.random() < 0.22:
        return name.lower()
    return name.upper() if rng.random() < 0.02 else name


def person(rng: random.Random, _: str) -> str:
    last = made_up(rng) if rng.random() < 0.15 else rng.choice(POOLS["last"])
    name = f"{rng.choice(POOLS['first'])} {last}"
    return name.lower() if rng.random() < 0.08 else name


def email(rng: random.Random, _: str) -> str:
    first = rng.choice(POOLS["first"][:40]).lower()
    last = rng.choice([made_up(rng), rng.choice(POOLS["last"][:20])]).lower()
    name = rng.choice([first, f"{first}.{last}", f"{first[0]}{last}", f"{first}_{rng.randint(1, 99)}"])
    host = rng.choice(["example.com", "gmail.com", "acme.io", f"{made_up(rng).lower()}.org", "uni.ch"])
    return re.sub(r"[^a-z0-9._@-]", "", f"{name}@{host}")


def path(rng: random.Random, _: str) -> str:
    stem = made_up(rng).lower() if rng.random() < 0.25 else rng.choice(POOLS["stem"])
    name = f"{stem}.{rng.choice(POOLS['extension'])}"
    root = rng.choice(["", "", "./", "/", "/home/anna/", "~/", "/etc/", "/tmp/", "../", "C:\\Users\\tom\\"])
    parts = [rng.choice(POOLS["folder"]) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
    divider = "\\" if "\\" in root else "/"
    return root + divider.join([*parts, name])


def folder(rng: random.Random, _: str) -> str:
    root = rng.choice(["", "./", "/", "~/", "/var/", "/home/ben/"])
    parts = [rng.choice([*POOLS["folder"], made_up(rng).lower()]) for _ in range(rng.randint(1, 2))]
    return root + "/".join(parts) + rng.choice(["", "", "/"])


def repo(rng: random.Random, _: str) -> str:
    if rng.random() < 0.5:
        return rng.choice(POOLS["repo"])
    owner = rng.choice([made_up(rng), made_up(rng).lower(), rng.choice(POOLS["user"])])
    name = rng.choice([made_up(rng).lower(), rng.choice(POOLS["stem"]) + "-" + rng.choice(POOLS["stem"])])
    return f"{owner}/{name}"


def url(rng: random.Random, _: str) -> str:
    host = rng.choice(["example.com", f"{made_up(rng).lower()}.org", f"www.{made_up(rng).lower()}.com"])
    host = rng.choice([host, "docs." + host.removeprefix("www.")])
    tail = rng.choice(["", "/", f"/{rng.choice(POOLS['stem'])}", f"/a/{rng.randint(1, 900)}.html"])
    return f"{rng.choice(['https', 'https', 'http'])}://{host}{tail or rng.choice(['', '?q=tea&p=2'])}"


def expression(rng: random.Random, _: str) -> str:
    def number() -> str:
        big = str(rng.randint(1, 999)) if rng.random() < 0.5 else str(rng.randint(1, 20))
        return big if rng.random() < 0.85 else f"{rng.randint(0, 40)}.{rng.randint(1, 99)}"

    gap = rng.choice(["", "", " "])

    def sign() -> str:
        return gap + rng.choice("+-*/+*") + gap

    a, b, c, d = (number() for _ in range(4))
    return rng.choice(
        [
            f"{a}{sign()}{b}",
            f"({a}{sign()}{b}){sign()}{c}",
            f"{a}{sign()}({b}{sign()}{c})",
            f"({a}{sign()}{b}){sign()}({c}{sign()}{d})",
            f"{a}{sign()}{b}{sign()}{c}",
            f"{rng.randint(2, 15)}{rng.choice(['**', '^'])}{rng.randint(2, 9)}",
            f"sqrt({a}){sign()}{b}",
            f"{a}{gap}%{gap}{rng.randint(2, 30)}",
            f"-({a}{sign()}{b})/{c}",
        ]
    )


def sql(rng: random.Random, _: str) -> str:
    table = rng.choice(POOLS["dbtable"])
    n = rng.randint(1, 900)
    return rng.choice(
        [
            f"SELECT * FROM {table}",
            f"SELECT COUNT(*) FROM {table}",
            f"select name from {table} where id = {n}",
            f"SELECT id, name FROM {table} ORDER BY id DESC LIMIT {n}",
            f"DELETE FROM {table} WHERE id = {n}",
            f"SELECT * FROM {table} WHERE city = '{rng.choice(POOLS['city'])}'",
            f"SELECT MAX(price) FROM {table};",
            f"UPDATE {table} SET active = 0 WHERE id > {n}",
        ]
    )


def address(rng: random.Random, _: str) -> str:
    street = rng.choice(["Main Street", "Oak Avenue", f"{made_up(rng)} Road", "Bahnhofstrasse", "High St"])
    town = rng.choice(POOLS["city"]) if rng.random() < 0.5 else ""
    number = rng.randint(1, 240)
    line = f"{street} {number}" if "strasse" in street else f"{number} {street}"
    return f"{line}, {town}" if town else line


def phone(rng: random.Random, _: str) -> str:
    d = letters(rng, string.digits, 9)
    return rng.choice([f"+41 79 {d[:3]} {d[3:5]} {d[5:7]}", f"+1{d}0", f"555-{d[:4]}", f"0{d}", f"+44{d}"])


def identifier(rng: random.Random, prefix: str) -> str:
    body = rng.choice([str(rng.randint(100, 99999)), letters(rng, HEX, 6)])
    return prefix + body


def order_id(rng: random.Random, _: str) -> str:
    n = rng.randint(1000, 999999)
    return rng.choice([f"ORD-{n}", str(n), f"A{n}", f"#W{n}", f"ord_{letters(rng, HEX, 6)}", f"2025-{n}"])


def product_id(rng: random.Random, _: str) -> str:
    return rng.choice(["SKU-", "P", "item_", "B0"]) + letters(rng, "0123456789ABCDEFX", 5)


def tracking(rng: random.Random, _: str) -> str:
    return rng.choice(["1Z", "JD", "RR", ""]) + letters(rng, string.digits, rng.randint(8, 12))


def made_uuid(rng: random.Random, _: str) -> str:
    return "-".join(letters(rng, HEX, n) for n in (8, 4, 4, 4, 12))


def fresh(name: str) -> Callable[[random.Random, str], str]:
    """A pool, now and then replaced by a made-up word."""

    def draw(rng: random.Random, _: str) -> str:
        if rng.random() < 0.15:
            return f"{made_up(rng)} {made_up(rng)}" if rng.random() < 0.5 else made_up(rng)
        text = rng.choice(POOLS[name])
        return text.lower() if rng.random() < 0.12 else text

    return draw


def worded(name: str) -> Callable[[random.Random, str], str]:
    """A pool of sentences, now and then continued by a number or a name."""

    def draw(rng: random.Random, _: str) -> str:
        text = rng.choice(POOLS[name])
        if rng.random() < 0.15 and text[-1].isalpha():
            text += rng.choice([f" {rng.randint(2, 99)}", f" ({made_up(rng)})", f" for {made_up(rng)}"])
        return text

    return draw


TEXTS: dict[str, Callable[[random.Random, str], str]] = {
    "city": city,
    "person": person,
    "email": email,
    "path": path,
    "dir": folder,
    "repo": repo,
    "url": url,
    "expr": expression,
    "sql": sql,
    "addr": address,
    "phone": phone,
    "id": identifier,
    "orderid": order_id,
    "sku": product_id,
    "tracking": tracking,
    "uuid": made_uuid,
    "fake": lambda rng, _: made_up(rng),
    "flight": lambda rng, _: rng.choice(["LH", "LX", "BA", "UA", "AF", "EK", "U2"]) + str(rng.randint(10, 9999)),
    "seat": lambda rng, _: f"{rng.randint(1, 40)}{rng.choice('ABCDEF')}",
    "gate": lambda rng, _: f"{rng.choice('ABCDE')}{rng.randint(1, 60)}",
    "conf": lambda rng, _: letters(rng, string.ascii_uppercase + string.digits, 6),
    "hex": lambda rng, _: letters(rng, HEX, 8),
    "pw": lambda rng, _: letters(rng, string.ascii_letters + "23456789!#%", 12),
    "isbn": lambda rng, _: rng.choice(["978", "978-"]) + letters(rng, string.digits, 10),
    "ip": lambda rng, _: ".".join(str(rng.randint(1, 254)) for _ in range(4)),
    "pod": lambda rng, _: f"{rng.choice(POOLS['service'])}-{letters(rng, HEX, 5)}",
    "tkey": lambda rng, _: f"{rng.choice(['OPS', 'WEB', 'APP', 'CORE', 'JIRA', 'X'])}-{rng.randint(1, 4999)}",
    "version": lambda rng, _: (
        rng.choice(["", "", "v"]) + f"{rng.randint(0, 12)}.{rng.randint(0, 30)}.{rng.randint(0, 9)}"
    ),
    "song": fresh("song"),
    "movie": fresh("movie"),
    "book": fresh("book"),
    "game": fresh("game"),
    "hotel": fresh("hotel"),
    "company": fresh("company"),
    "query": worded("query"),
    "msg": worded("msg"),
    "subj": worded("subj"),
    "todo": worded("todo"),
}
