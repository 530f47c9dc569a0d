"""The page: what it asks of a model, which requests its server allows, and what its command refuses."""

import asyncio
import base64
import http.client
import importlib.util
import io
import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import environment
from helpers import make_glow
from PIL import Image

from glow_tf.data import image_data
from glow_tf.demo import explorer, guard, page
from glow_tf.errors import InputError
from glow_tf.evaluation import editing, visualization


@pytest.fixture(scope="module")
def exploring():
    return explorer.Explorer(make_glow(image_shape=(8, 8, 1), dtype="float32", num_bits=4), image_data.load("digits"))


@pytest.fixture(scope="module")
def of_classes():
    glow = make_glow(image_shape=(8, 8, 1), dtype="float32", num_classes=3)
    return explorer.Explorer(glow, directions={"up": np.ones([8, 8, 1], np.float32)})


def address(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def png(*size, value=200):
    content = io.BytesIO()
    Image.new("L", size, value).save(content, "PNG")
    return content.getvalue()


def test_samples_depend_on_temperature_seed_and_class(exploring, of_classes, monkeypatch):
    grids = [exploring.samples(0.7, 1), exploring.samples(0.9, 1), exploring.samples(0.7, 2)]
    assert len({grid.tobytes() for grid in grids}) == 3
    np.testing.assert_array_equal(exploring.samples(0.7, 1.0), grids[0])
    assert len({of_classes.samples(0.7, 1, label).tobytes() for label in (None, 0, 2)}) == 3
    drawn = []
    monkeypatch.setattr(visualization, "labelled_grid", lambda images, caption: drawn.append((caption, images)))
    of_classes.samples(0.7, 1, 2)
    ((caption, images),) = drawn
    assert caption == "16 samples at temperature 0.7, class 2\nseed 1"
    np.testing.assert_array_equal(images, of_classes.glow.sample(16, 0.7, 1, [2] * 16))


def test_mixtures_end_at_both_images(exploring):
    first, second = exploring.test_image(3), exploring.test_image(5)
    for spherical in (False, True):
        np.testing.assert_array_equal(exploring.mix(first, second, 0, spherical), first)
        np.testing.assert_array_equal(exploring.mix(first, second, 1, spherical), second)
    strips = editing.interpolate(exploring.glow, np.stack([first, second]), 3)
    np.testing.assert_array_equal(exploring.mix(first, second, 0.5), strips[0, 1])


def test_mixtures_are_encoded_under_the_likeliest_class_of_the_first(of_classes):
    first, second = of_classes.images[:2]
    middle = of_classes.glow.dequantize(first[np.newaxis])
    likeliest = np.argmax(of_classes.glow.class_log_probs(middle), axis=1)
    expected = editing.interpolate(of_classes.glow, np.stack([first, second]), 3, np.repeat(likeliest, 2))
    np.testing.assert_array_equal(of_classes.mix(first, second, 0.5), expected[0, 1])


def test_sliders_move_along_their_directions(exploring, of_classes):
    image, directions = exploring.test_image(4), list(exploring.directions.values())
    strengths = np.zeros(10)
    np.testing.assert_array_equal(exploring.move(image, strengths.tolist()), image)
    strengths[[2, 7]] = 1.0, -0.5
    moved = editing.apply_direction(exploring.glow, image[np.newaxis], directions[2] - 0.5 * directions[7], [1.0])
    np.testing.assert_array_equal(exploring.move(image, strengths.tolist()), moved[0, 0])
    assert list(of_classes.directions) == ["up"] and not of_classes.class_means
    assert np.any(of_classes.move(of_classes.test_image(0), [1]) != of_classes.test_image(0))


def test_directions_of_classes_are_differences_of_means(exploring):
    images, labels = image_data.load("digits").train.random_subset(explorer.NUM_TRAINING_IMAGES, seed=0)
    direction = editing.attribute_direction(exploring.glow, images[labels == 3], images[labels == 8])
    np.testing.assert_allclose(exploring.class_means["3"] - exploring.class_means["8"], direction, atol=1e-6)
    np.testing.assert_allclose(exploring.directions["3"] - exploring.directions["8"], direction, atol=1e-6)
    image = exploring.test_image(0)
    expected = editing.apply_direction(exploring.glow, image[np.newaxis], direction, [0.5])[0, 0]
    np.testing.assert_array_equal(exploring.change_class(image, "8", "3", 0.5), expected)


def test_a_direction_that_is_called_like_a_class_is_refused(exploring):
    up = {"3": np.ones([8, 8, 1], np.float32)}
    with pytest.raises(InputError, match="the direction '3' is called like a class"):
        explorer.Explorer(exploring.glow, image_data.load("digits"), up)


def test_an_upload_is_cut_to_the_models_size(exploring):
    upload = exploring.uploaded(address(png(40, 20)))
    assert (upload.shape, upload.dtype) == ((8, 8, 1), np.uint8)
    assert (upload == 200).all()


REFUSED = {
    "temperature is -1": lambda e: e.samples(-1, 0),
    "temperature is nan": lambda e: e.samples(float("nan"), 0),
    "temperature is '1'": lambda e: e.samples("1", 0),
    "seed is 0.5": lambda e: e.samples(0.7, 0.5),
    "seed is None": lambda e: e.samples(0.7, None),
    "seed is inf": lambda e: e.samples(0.7, float("inf")),
    "a class was chosen": lambda e: e.samples(0.7, 0, 1),
    "image number is 256; it must be a whole number from 0 to 255": lambda e: e.test_image(256),
    "share is 1.5": lambda e: e.mix(e.images[0], e.images[1], 1.5),
    "there are 3 strengths for 10": lambda e: e.move(e.images[0], [0, 0, 0]),
    "3 is 2.5; it must be a number from -2 to 2": lambda e: e.move(e.images[0], [0, 0, 0, 2.5] + 6 * [0]),
    "'x' is not one of the classes 0, 1": lambda e: e.change_class(e.images[0], "x", "1", 1),
    "no image was uploaded": lambda e: e.uploaded("/etc/passwd"),
    "is not base64": lambda e: e.uploaded("data:image/png;base64,***"),
    "the content is none of PNG, JPEG": lambda e: e.uploaded(address(b"text")),
    "cannot be read: 8001x8001 pixels are more": lambda e: e.uploaded(address(png(8001, 8001))),
    "the limit is 10,000,000": lambda e: e.uploaded(address(bytes(explorer.MAX_UPLOAD_BYTES + 3))),
    "non-finite pixels": lambda e: e._decode(np.full([1, 8, 8, 1], np.inf, np.float32), None),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_values_are_one_line(exploring, message):
    with pytest.raises(InputError) as refused:
        REFUSED[message](exploring)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_messages_and_titles_are_escaped(exploring):
    assert "<b>" not in page.refusal(InputError("<b>\nx"))
    assert "<figcaption>A: &lt;b&gt;</figcaption>" in page.picture(exploring.images[0], "A: <b>")


def test_an_upload_has_a_name(exploring):
    image, name = page.read_upload(exploring, f"cat\x1b.png\n{address(png(40, 20))}")
    assert (image == 200).all() and name == r"cat\x1b.png"
    for text in (None, "", "cat.png"):
        with pytest.raises(InputError, match="no image was uploaded"):
            page.read_upload(exploring, text)
    with pytest.raises(InputError, match="the file has 99,999,999 bytes; the limit is 10,000,000"):
        page.read_upload(exploring, "size:99999999")


def test_the_page_says_what_the_model_sees(exploring):
    seen = "The model sees grey images of 8x8 pixels in 4 bits per channel (16 values)."
    assert exploring.description == seen


def pass_through(method, path, body=b"", host="127.0.0.1:7860"):
    """(the status that the middleware answers, 200 if it passes the request on; the bodies that it passes on)."""
    statuses, seen = [], []
    middle = len(body) // 2
    parts = ((body[:middle], True), (body[middle:], False))
    messages = iter([{"type": "http.request", "body": part, "more_body": more} for part, more in parts])

    async def receive():
        return next(messages)

    async def send(message):
        statuses.append(message.get("status"))

    async def inner(scope, receive, send):
        seen.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200})

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(guard.AllowlistMiddleware(inner, "127.0.0.1")(scope, receive, send))
    return statuses[0], seen


JOIN = "/gradio_api/queue/join"
FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


def test_what_the_page_requests_is_allowed():
    body = json.dumps({"data": [0.5, "straight", None, True], "fn_index": 1}).encode()
    assert pass_through("POST", JOIN, body) == (200, [body])
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/queue/data"):
        assert pass_through("GET", path, host="localhost:1")[0] == 200


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "host"),
    [
        (404, "GET", "/gradio_api/file=/etc/passwd", b"", "127.0.0.1:1"),
        (404, "GET", "/gradio_api/file=http://example.org/", b"", "127.0.0.1:1"),
        (404, "GET", "/gradio_api/proxy=http://example.org/", b"", "127.0.0.1:1"),
        (404, "GET", "/file/etc/passwd", b"", "127.0.0.1:1"),
        (404, "GET", "/assets/../../etc/passwd", b"", "127.0.0.1:1"),
        (404, "POST", "/gradio_api/upload", b"{}", "127.0.0.1:1"),
        (404, "POST", "/gradio_api/run/predict", b"{}", "127.0.0.1:1"),
        (404, "DELETE", "/", b"", "127.0.0.1:1"),
        (403, "GET", "/", b"", "example.org:1"),
        (403, "POST", JOIN, json.dumps({"data": [FILE]}).encode(), "127.0.0.1:1"),
        (403, "POST", JOIN, json.dumps({"data": [[FILE]]}).encode(), "127.0.0.1:1"),
        (403, "POST", JOIN, json.dumps({"data": FILE}).encode().replace(b"path", b"p\\u0061th"), "127.0.0.1:1"),
        (403, "POST", JOIN, b"[" * 100_000, "127.0.0.1:1"),
        (403, "POST", JOIN, b"text", "127.0.0.1:1"),
        (413, "POST", JOIN, bytes(guard.MAX_BODY_BYTES + 1), "127.0.0.1:1"),
    ],
)
def test_everything_else_is_refused(status, method, path, body, host):
    assert pass_through(method, path, body, host) == (status, [])


@pytest.fixture(scope="module")
def served(exploring):
    pytest.importorskip("gradio")
    server = page.serve(exploring, "test", "127.0.0.1")
    yield server.server_port
    server.close()


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def answer(port, data, output, session="s"):
    """The value of the widget `output` after one event."""
    config = json.loads(ask(port, "GET", "/config").read())
    widget = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == output)
    event = next(d["id"] for d in config["dependencies"] if d["outputs"] == [widget])
    body = {"data": data, "fn_index": event, "session_hash": session}
    assert ask(port, "POST", JOIN, body).status == 200
    for line in ask(port, "GET", f"/gradio_api/queue/data?session_hash={session}"):
        message = json.loads(line[5:]) if line.startswith(b"data:") else {}
        if message.get("msg") == "process_completed":
            return message["output"]["data"][0]
    return None


def test_a_round_trip(served, exploring):
    assert answer(served, [0.5, 3, -1], "samples") == page.picture(exploring.samples(0.5, 3), width=page.GRID_WIDTH)
    assert "seed is -1" in answer(served, [0.5, -1, -1], "samples", "t")
    mixed = exploring.mix(exploring.images[0], exploring.images[1], 0.25)
    assert answer(served, [0.25, "straight", None, None], "mixed", "u") == page.picture(mixed, "mixture: 75% A, 25% B")


def test_the_server_names_no_file_and_no_other_machine(served):
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://example.org/", "/gradio_api/upload"):
        assert ask(served, "GET", path).status == 404
    assert ask(served, "POST", JOIN, {"data": [FILE, 0, -1], "fn_index": 0, "session_hash": "v"}).status == 403
    page = ask(served, "GET", "/").read()
    assert b"fonts.googleapis" not in page and b'"analytics_enabled":false' in page


def test_the_server_listens_to_this_machine_alone(served):
    # Every address 127.x.y.z is this machine's: a server on 0.0.0.0 would answer to this one, too.
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", served)) != 0


@pytest.fixture
def started(tmp_path):
    def start(*arguments, **changes):
        command = [sys.executable, "-m", "glow_tf", "explore", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment(**changes), check=False
        )

    return start


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "--port is 0; it must be an integer from 1 to 65535"),
        (["weights.h5"], "unexpected argument 'weights.h5'; a weights file is named by --weights"),
        (["--direction", "smile.npy"], "--direction is 'smile.npy'; it must have the form NAME=FILE"),
        (["--direction", "a=b", "--direction", "a=c"], "--direction 'a' is used twice"),
        (["--direction", "a=missing.npy"], "missing.npy does not exist"),
        (["--weights", "missing.h5"], "missing.h5 does not exist"),
        (
            ["--weights", "digits", "--data_dir", "sets"],
            "--data_dir has no effect, since digits is not a data set of TF",
        ),
        (
            ["--dataset", "digits", "--data_dir", "sets"],
            "--data_dir has no effect, since digits is not a data set of TF",
        ),
    ],
)
def test_wrong_flags_are_one_line(started, arguments, message):
    start = time.monotonic()
    done = started(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert time.monotonic() - start < 10


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="Gradio is installed")
def test_without_gradio_one_line_says_how_to_get_it(started):
    done = started()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install -e '.[explore]'" in done.stderr


def test_a_port_that_is_taken_is_refused(started):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = str(holder.getsockname()[1])
        done = started("--port", port)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"--port {port} cannot be used" in done.stderr
