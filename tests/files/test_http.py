"""Files over HTTP, as the clients of the protocol use them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from stepwell.api.body import Limits
from stepwell.model.errors import ConfigurationError, NotFound
from stepwell.node.retention import Keep
from stepwell.server import ServerSettings
from stepwell.store.contents import DiskContents
from tests.files.conftest import Place, begun

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def test_an_upload_is_announced_put_and_read_without_a_key(place: Place) -> None:
    response = await place.http.post(
        "/files",
        json={
            "files": [
                {"uri": "", "filename": "cat.png", "content_type": "image/png", "size": len(PNG)},
                {"uri": "", "content_type": "text/plain", "filename": None, "path": None, "public": None},
            ],
            "category": "inputs",
        },
    )
    body = response.json()
    assert (response.status_code, body["success"], body["status"], body["messages"]) == (200, True, 200, [])
    first, second = body["data"]
    assert {name: first[name] for name in ("filename", "content_type", "size", "category", "path", "rating")} == {
        "filename": "cat.png",
        "content_type": "image/png",
        "size": len(PNG),
        "category": "inputs",
        "path": "",
        "rating": "unrated",
    }
    assert first["uri"].startswith(f"{place.server.url}/f/{first['id']}.")
    assert first["uri"].endswith("/cat.png")
    assert second["uri"].endswith("/file")
    assert first["upload_url"].startswith(f"{place.server.url}/upload/{first['id']}?sig=")

    put = await place.http.put(first["upload_url"], content=PNG)
    assert put.status_code == 200
    found = (await place.http.get(f"/files/{first['id']}")).json()["data"]
    assert found == {name: value for name, value in first.items() if name != "upload_url"}
    read = await place.http.get(first["uri"])
    assert read.content == PNG
    assert read.headers["content-type"] == "image/png"


async def test_a_file_is_not_seen_before_its_bytes_have_come(place: Place) -> None:
    file = await place.announce(filename="a.txt", content_type="text/plain")
    assert (await place.http.get(f"/files/{file['id']}")).status_code == 404
    assert (await place.http.get(file["uri"])).status_code == 404
    assert (await place.http.delete(f"/files/{file['id']}")).status_code == 404
    assert (await place.http.post("/files/list")).json()["data"]["items"] == []
    assert (await place.http.put(file["upload_url"], content=b"now")).status_code == 200
    assert (await place.http.get(file["uri"])).content == b"now"
    [listed] = (await place.http.post("/files/list")).json()["data"]["items"]
    assert listed["id"] == file["id"]


async def test_an_address_takes_one_upload_and_only_with_its_signature(place: Place) -> None:
    file = await place.announce(filename="a.txt", content_type="text/plain")
    url = file["upload_url"]
    wrong = [url[:-1] + ("A" if url[-1] != "A" else "B"), url.partition("?")[0], url.replace(file["id"], "0" * 26)]
    for one in wrong:
        refused = await place.http.put(one, content=b"x")
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "not_found"
    other = await place.announce(filename="b.txt", content_type="text/plain")
    mixed = url.partition("=")[0] + "=" + other["upload_url"].partition("=")[2]
    assert (await place.http.put(mixed, content=b"x")).status_code == 404
    assert (await place.http.put(url, content=b"first")).status_code == 200
    again = await place.http.put(url, content=b"second")
    assert again.status_code == 409
    assert "announce another" in again.json()["detail"]
    assert (await place.http.get(file["uri"])).content == b"first"


async def test_of_two_uploads_to_one_address_at_once_one_is_kept(place: Place) -> None:
    file = await place.announce(filename="a.bin")
    contents = [bytes([number]) * 300_000 for number in range(4)]
    answers = await asyncio.gather(*[place.http.put(file["upload_url"], content=one) for one in contents])
    statuses = sorted(one.status_code for one in answers)
    assert statuses == [200, 409, 409, 409]
    kept = contents[[one.status_code for one in answers].index(200)]
    assert (await place.http.get(file["uri"])).content == kept
    assert [path.name for path in place.kept] == [hashlib.sha256(kept).hexdigest()]


async def test_the_address_is_signed_and_stays_the_same_over_a_restart(tmp_path: Path) -> None:
    place = await begun(tmp_path / "data", public_url="https://files.example.com")
    file = await place.upload(b"text", filename="a.txt", content_type="text/plain")
    assert file["uri"].startswith("https://files.example.com/f/")
    path = urlsplit(file["uri"]).path
    await place.http.aclose()
    await place.server.stop()
    place = await begun(tmp_path / "data", public_url="https://files.example.com")
    try:
        assert (await place.http.get(f"/files/{file['id']}")).json()["data"]["uri"] == file["uri"]
        assert (await place.http.get(path)).content == b"text"
        key = path.split("/")[2]
        for wrong in (key[:-1] + ("A" if key[-1] != "A" else "B"), file["id"], f"{file['id']}.", "0" * 26 + key[26:]):
            assert (await place.http.get(f"/f/{wrong}/a.txt")).status_code == 404
    finally:
        await place.http.aclose()
        await place.server.stop()


async def test_with_keys_only_the_signed_addresses_are_open(tmp_path: Path) -> None:
    key = "0123456789abcdef" * 4
    place = await begun(tmp_path / "data", dev=False, signing_key=key, event_keys=("an-event-key",))
    try:
        for method, path in (("POST", "/files"), ("POST", "/files/list"), ("GET", "/files/x"), ("DELETE", "/files/x")):
            assert (await place.http.request(method, path)).status_code == 401
        headers = {"authorization": f"Bearer {key}"}
        entry = {"files": [{"uri": "", "filename": "a.txt", "content_type": "text/plain"}]}
        [file] = (await place.http.post("/v1/files", json=entry, headers=headers)).json()["data"]
        assert (await place.http.put(file["upload_url"], content=b"text")).status_code == 200
        assert (await place.http.get(file["uri"])).text == "text"
        assert (await place.http.delete(f"/v1/files/{file['id']}", headers=headers)).json()["data"] is None
        assert (await place.http.get(file["uri"])).status_code == 404
    finally:
        await place.http.aclose()
        await place.server.stop()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (206, b"0", "bytes 0-0/100")),
        ("bytes=10-19", (206, b"0123456789", "bytes 10-19/100")),
        ("bytes=95-", (206, b"56789", "bytes 95-99/100")),
        ("bytes=-3", (206, b"789", "bytes 97-99/100")),
        ("bytes=-1000", (206, b"0123456789" * 10, "bytes 0-99/100")),
        ("bytes=90-1000", (206, b"0123456789", "bytes 90-99/100")),
        ("bytes=100-", (416, None, "bytes */100")),
        ("bytes=-0", (416, None, "bytes */100")),
        ("bytes=0-1,5-6", (200, b"0123456789" * 10, None)),
        ("bytes=5-2", (200, b"0123456789" * 10, None)),
        ("bytes=-", (200, b"0123456789" * 10, None)),
        ("lines=1-2", (200, b"0123456789" * 10, None)),
    ],
)
async def test_a_part_is_sent_of_a_file(
    place: Place, header: str, expected: tuple[int, bytes | None, str | None]
) -> None:
    file = await place.upload(b"0123456789" * 10, filename="a.txt", content_type="text/plain")
    response = await place.http.get(file["uri"], headers={"range": header})
    status, content, part = expected
    assert response.status_code == status
    assert response.headers.get("content-range") == part
    head = await place.http.head(file["uri"], headers={"range": header})
    assert (head.status_code, head.content) == (status, b"")
    if content is not None:
        assert response.content == content
        assert head.headers["content-length"] == str(len(content))


async def test_a_copy_that_is_still_good_is_not_sent_again(place: Place) -> None:
    file = await place.upload(b"text", filename="a.txt", content_type="text/plain")
    first = await place.http.get(file["uri"])
    tag = first.headers["etag"]
    assert tag == f'"{hashlib.sha256(b"text").hexdigest()}"'
    assert first.headers["cache-control"] == "private, max-age=3600"
    for condition in (tag, f'"other", W/{tag}', "*"):
        response = await place.http.get(file["uri"], headers={"if-none-match": condition})
        assert (response.status_code, response.content) == (304, b"")
    assert (await place.http.get(file["uri"], headers={"if-none-match": '"other"'})).text == "text"
    part = {"range": "bytes=0-1"}
    assert (await place.http.get(file["uri"], headers={**part, "if-range": tag})).text == "te"
    assert (await place.http.get(file["uri"], headers={**part, "if-range": '"other"'})).text == "text"


async def test_equal_bytes_are_kept_once_and_go_with_the_last_file(place: Place) -> None:
    first = await place.upload(b"same", filename="a.txt")
    second = await place.upload(b"same", filename="b.txt")
    other = await place.upload(b"other", filename="c.txt")
    assert len(place.kept) == 2
    assert (await place.http.delete(f"/files/{first['id']}")).status_code == 200
    assert (await place.http.delete(f"/files/{first['id']}")).status_code == 404
    assert (await place.http.get(first["uri"])).status_code == 404
    assert (await place.http.get(second["uri"])).content == b"same"
    assert (await place.http.delete(f"/files/{second['id']}")).status_code == 200
    assert [path.read_bytes() for path in place.kept] == [b"other"]
    assert (await place.http.get(other["uri"])).content == b"other"


async def test_files_are_listed_a_page_at_a_time(place: Place) -> None:
    for number in range(7):
        kind = "text/plain" if number % 2 else "image/png"
        await place.upload(b"%d" % number, filename=f"Photo {number}.x", content_type=kind)

    async def names(**body: Any) -> tuple[list[str], dict[str, Any]]:
        response = await place.http.post("/files/list", json=body)
        assert response.status_code == 200, response.text
        page = response.json()["data"]
        return [one["filename"][6:7] for one in page["items"]], page

    assert (await names())[0] == list("6543210")
    assert (await names(sort=[{"field": "created_at", "dir": "asc"}]))[0] == list("0123456")
    seen, page = await names(limit=3)
    assert (seen, page["has_next"], page["has_previous"], page["items_per_page"]) == (list("654"), True, False, 3)
    seen, page = await names(limit=3, cursor=page["next_cursor"])
    assert (seen, page["has_next"], page["has_previous"]) == (list("321"), True, True)
    back, earlier = await names(limit=3, cursor=page["prev_cursor"], direction="prev")
    assert (back, earlier["has_next"], earlier["has_previous"]) == (list("654"), True, False)
    seen, page = await names(limit=3, cursor=page["next_cursor"])
    assert (seen, page["has_next"], page["next_cursor"]) == (list("0"), False, "")
    assert (await names(search={"term": "photo 3"}))[0] == ["3"]
    plain = {"field": "content_type", "operator": "eq", "value": "text/plain"}
    seen, page = await names(filters=[plain], limit=2)
    assert (seen, page["has_next"]) == (list("53"), True)
    assert (await names(filters=[plain], limit=2, cursor=page["next_cursor"]))[0] == ["1"]
    refused = await place.http.post("/files/list", json={"filters": [{"field": "secret"}]})
    assert refused.status_code == 400
    assert "filename" in refused.json()["detail"]


# what the server gets by itself


@pytest.mark.parametrize(
    ("uri", "content", "content_type"),
    [
        ("data:image/png;base64," + base64.b64encode(PNG).decode(), PNG, "image/png"),
        ("data:;base64,aGk", b"hi", "application/octet-stream"),
        ("data:text/plain;charset=utf-8;base64,_-8=", b"\xff\xef", "text/plain"),
        ("data:,hello%20there", b"hello there", "text/plain"),
        ("DATA:text/csv,a%2Cb", b"a,b", "text/csv"),
    ],
)
async def test_a_data_uri_is_stored_at_once(place: Place, uri: str, content: bytes, content_type: str) -> None:
    file = await place.announce(uri=uri)
    assert "upload_url" not in file
    assert (file["size"], file["content_type"]) == (len(content), content_type)
    assert (await place.http.get(file["uri"])).content == content


async def test_the_server_gets_a_file_from_its_url(place: Place) -> None:
    there = await place.upload(PNG, filename="dot.png")
    file = await place.announce(uri=there["uri"] + "?size=1#top")
    assert (file["filename"], file["content_type"], file["size"]) == ("dot.png", "image/png", len(PNG))
    assert file["id"] != there["id"]
    assert (await place.http.get(file["uri"])).content == PNG
    assert len(place.kept) == 1


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:;base64,a", "not base64"),
        ("file:///etc/passwd", "http://, https:// or data:"),
        ("/etc/passwd", "http://, https:// or data:"),
        ("{base}/f/none/a.txt", "it answered 404"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254"),
        ("http://localhost:1/a", "cannot be connected to"),
    ],
)
async def test_what_cannot_be_got_is_told_and_leaves_nothing(place: Place, uri: str, words: str) -> None:
    uri = uri.replace("{base}", place.server.url)
    response = await place.http.post("/files", json={"files": [{"uri": uri}]})
    assert response.status_code == 400
    assert words in response.json()["detail"]
    assert place.kept == []
    assert (await place.http.post("/files/list")).json()["data"]["items"] == []


# limits


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "files is missing"),
        ({"files": []}, "files is missing"),
        ({"files": [{}] * 101}, "101 files"),
        ({"files": [{"size": -1}]}, "0 or more"),
        ({"files": [{"size": 10**12}]}, "max_file_bytes"),
        ({"files": [{"filename": "x" * 1001}]}, "1,001 characters"),
        ({"files": [{"content_type": "text/plain\nset-cookie: a"}]}, "image/png"),
        ({"files": "a"}, "files"),
    ],
)
async def test_what_cannot_be_announced_is_told(place: Place, body: dict[str, Any], words: str) -> None:
    response = await place.http.post("/files", json=body)
    assert response.status_code == 400
    assert words in response.json()["detail"]


async def test_the_largest_file_is_a_setting(tmp_path: Path) -> None:
    place = await begun(tmp_path / "data", limits=Limits(max_file_bytes=1_000_000))
    try:
        file = await place.announce(filename="a.bin")

        async def chunked() -> Any:
            for _ in range(11):
                yield b"x" * 100_000

        for content in (b"x" * 1_000_001, chunked()):
            response = await place.http.put(file["upload_url"], content=content)
            assert response.status_code == 413
            assert "1,000,000" in response.json()["detail"]
        await gone(place)
        assert (await place.http.put(file["upload_url"], content=b"x" * 1_000_000)).status_code == 200
    finally:
        await place.http.aclose()
        await place.server.stop()


async def test_other_bytes_than_were_announced_are_refused(place: Place) -> None:
    file = await place.announce(filename="a.bin", size=10)
    response = await place.http.put(file["upload_url"], content=b"123456789")
    assert response.status_code == 400
    assert "9 bytes came and 10 were announced" in response.json()["detail"]
    assert (await place.http.put(file["upload_url"], content=b"1234567890")).status_code == 200


async def test_an_empty_file_is_a_file(place: Place) -> None:
    file = await place.upload(b"", filename="empty.txt", content_type="text/plain", size=0)
    response = await place.http.get(file["uri"])
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "0")
    assert (await place.http.get(file["uri"], headers={"range": "bytes=0-"})).status_code == 416


async def test_an_encoded_upload_is_refused_and_not_spoiled(place: Place) -> None:
    file = await place.announce(filename="a.bin")
    response = await place.http.put(file["upload_url"], content=b"x", headers={"content-encoding": "gzip"})
    assert response.status_code == 415


async def gone(place: Place) -> None:
    """Until nothing is left of what was cut off."""
    async with asyncio.timeout(5):
        while place.kept:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# S33: names are only names


NAMES = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "C:\\Windows\\win.ini",
    "\\\\server\\share\\file.txt",
    "a\0b.txt",
    "..",
    ".",
    "...",
    "/",
    "CON",
    "nul.txt",
    "x" * 300,
    "y" * 300 + ".tar.gz",
    "A.txt",
    "a.TXT",
    "na\u202eme\r\nset-cookie: a=b.txt",
    "Größe – 漢字 😀.png",
    "quo\"te;'.txt",
    "a?b#c&d%20e.txt",
]


@pytest.mark.parametrize("name", NAMES)
async def test_s33_a_name_is_no_path(place: Place, name: str) -> None:
    content = name.encode("utf-8", "surrogatepass")
    body = json.dumps({"files": [{"uri": "", "filename": name}]})
    response = await place.http.post("/files", content=body)
    assert response.status_code == 200, response.text
    [file] = response.json()["data"]
    assert file["filename"] == name
    assert (await place.http.put(file["upload_url"], content=content)).status_code == 200

    assert [path.name for path in place.kept] == [hashlib.sha256(content).hexdigest()]
    last = unquote(urlsplit(file["uri"]).path.rsplit("/", 1)[1])
    assert last
    assert not set(last) & set("/\\\0\r\n")
    assert last.strip(".")
    assert len(last) <= 120
    read = await place.http.get(file["uri"])
    assert read.content == content
    assert "set-cookie" not in read.headers


async def test_s33_names_that_differ_in_case_only_are_two_files(place: Place) -> None:
    first, second = await place.upload(b"1", filename="a.txt"), await place.upload(b"2", filename="A.TXT")
    assert (await place.http.get(first["uri"])).content == b"1"
    assert (await place.http.get(second["uri"])).content == b"2"


@pytest.mark.parametrize(
    "path",
    ["/f/../files", "/f/..%2f..%2f..%2fetc%2fpasswd/x", "/f/%2e%2e/passwd", "/f/a%00b/c", "/upload/..%2fx?sig=a"],
)
async def test_s33_no_address_leads_out_of_the_folder(place: Place, path: str) -> None:
    await place.upload(b"text", filename="a.txt")
    reader, writer = await asyncio.open_connection("127.0.0.1", place.server.port)
    method = "PUT" if path.startswith("/upload") else "GET"
    writer.write(
        f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    assert answer.split(b" ")[1] in (b"404", b"405")


# S34: what lies at an address came from anybody


@pytest.mark.parametrize(
    ("name", "claimed", "content"),
    [
        ("a.html", "text/html", b"<script>alert(1)</script>"),
        ("a.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("a.xml", "application/xml", b"<?xml version='1.0'?><a/>"),
        ("a.xhtml", "application/xhtml+xml", b"<html xmlns='http://www.w3.org/1999/xhtml'/>"),
        ("a.pdf", "application/pdf", b"%PDF-1.7 ..."),
        ("a.js", "text/javascript", b"alert(1)"),
        ("a.mjs", "", b"alert(1)"),
        ("a.html", "", b"<script>alert(1)</script>"),
        ("a.html", "image/svg", b"<script>"),
        ("picture.png", "text/html; charset=utf-8", b"<script>"),
        ("a.unknown", "x-any/thing", b"<script>"),
        ("a.swf", "application/x-shockwave-flash", b"FWS"),
        ("a.pdf", "text/plain", b"%PDF-1.7 ..."),
    ],
)
async def test_s34_active_content_is_saved_and_not_opened(
    place: Place, name: str, claimed: str, content: bytes
) -> None:
    file = await place.upload(content, filename=name, content_type=claimed)
    response = await place.http.get(file["uri"])
    headers = response.headers
    assert response.content == content
    assert headers["content-disposition"].startswith("attachment;")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("name", "claimed", "content", "shown"),
    [
        ("a.png", "image/png", PNG, "image/png"),
        ("a.bin", "application/octet-stream", PNG, "image/png"),
        ("a.txt", "text/html", PNG, "image/png"),
        ("a.html", "image/png", b"<script>alert(1)</script>", "image/png"),
        ("a.txt", "", b"<script>alert(1)</script>", "text/plain; charset=utf-8"),
        ("a.json", "", b"{}", "application/json"),
    ],
)
async def test_s34_what_is_shown_is_shown_as_what_it_is_said_to_be(
    place: Place, name: str, claimed: str, content: bytes, shown: str
) -> None:
    """A page that calls itself an image is a broken image: nobody may guess."""
    file = await place.upload(content, filename=name, content_type=claimed)
    headers = (await place.http.get(file["uri"])).headers
    assert headers["content-type"] == shown
    assert headers["content-disposition"].startswith("inline;")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert headers["referrer-policy"] == "no-referrer"


async def test_a_page_of_another_site_may_read_a_file_whose_address_it_has(place: Place) -> None:
    file = await place.upload(b"text", filename="a.txt", content_type="text/plain")
    for headers in ({"origin": "http://localhost:3000"}, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}):
        assert (await place.http.get(file["uri"], headers=headers)).text == "text"
    assert (await place.http.get(file["uri"], headers={"host": "evil.example"})).status_code == 403
    other = await place.http.get("/files/x", headers={"origin": "http://evil.example"})
    assert other.status_code == 403


async def test_a_server_in_memory_leaves_nothing() -> None:
    place = await begun(None)
    file = await place.upload(b"text", filename="a.txt", content_type="text/plain")
    assert (await place.http.get(file["uri"])).text == "text"
    assert isinstance(place.files.contents, DiskContents)
    folder = place.files.contents.directory
    assert folder.stat().st_mode & 0o777 == 0o700
    await place.http.aclose()
    await place.server.stop()
    assert not folder.exists()


async def test_a_fresh_server_forgets_files(tmp_path: Path) -> None:
    place = await begun(tmp_path / "data")
    file = await place.upload(b"text", filename="a.txt")
    await place.http.aclose()
    await place.server.stop()
    assert place.kept
    place = await begun(tmp_path / "data", fresh=True)
    assert place.kept == []
    assert (await place.http.get(urlsplit(file["uri"]).path)).status_code == 404
    await place.http.aclose()
    await place.server.stop()


@pytest.mark.slow
async def test_files_may_be_in_an_object_store(tmp_path: Path, bucket: str) -> None:
    place = await begun(tmp_path / "data", files=bucket)
    content = bytes(range(256)) * 40_000
    file = await place.upload(content, filename="a.bin")
    assert (await place.http.get(file["uri"])).content == content
    assert (
        await place.http.get(file["uri"], headers={"range": "bytes=5000000-5000003"})
    ).content == b"\x40\x41\x42\x43"
    assert place.kept == []
    await place.http.aclose()
    await place.server.stop()
    place = await begun(tmp_path / "data", files=bucket)
    try:
        path = urlsplit(file["uri"]).path
        assert (await place.http.get(path)).content == content
        assert (await place.http.delete(f"/files/{file['id']}")).status_code == 200
        assert (await place.http.get(path)).status_code == 404
        with pytest.raises(NotFound):
            await anext(place.files.contents.read(hashlib.sha256(content).hexdigest()))
    finally:
        await place.http.aclose()
        await place.server.stop()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"files": "gs://bucket"}, "s3://bucket/prefix"),
        ({"files": "s3://"}, "s3://bucket/prefix"),
        ({"public_url": "stepwell.example.com"}, "--public-url"),
        ({"public_url": "https://stepwell.example.com/path"}, "--public-url"),
        ({"keep": Keep(files_ms=3_599_999)}, "--keep-files"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        ServerSettings(**settings).check()
