"""The page of `python3 -m glow_tf explore`: Gradio's widgets around an Explorer, and what its server lets in.

No request can name a file of the machine or an address of another one: pictures go out and uploads come in as
`data:` addresses, `Guard` lets through only the addresses that the page itself asks for, and only numbers and
texts as values. So none of Gradio's ways of serving, fetching and storing files can be reached.
"""

import functools
import html
import json
import os
import re

from glow_tf.demo import explorer as exploring
from glow_tf.errors import InputError
from glow_tf.evaluation import visualization

# Gradio's own first port, and how many after it are tried where none is named.
FIRST_PORT, PORTS = 7860, 100

# Of a request: an upload in base64, and the other values with it.
MAX_BODY_BYTES = exploring.encoded_length(exploring.MAX_UPLOAD_BYTES) + 100_000

# Requests of one session that keep their images, and answers that wait.
MAX_SESSIONS, MAX_WAITING = 32, 64

# What the page asks for; a trailing slash stands for all that lies below.
OPEN = {
    "GET": ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/", "/static/", "/svelte/")
    + tuple(f"/gradio_api/{name}" for name in ("info", "queue/data", "heartbeat/", "startup-events", "theme.css")),
    "POST": ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"),
}
OPEN["HEAD"] = OPEN["GET"]

# A picture's width in the page, in pixels.
GRID_WIDTH, IMAGE_WIDTH = 560, 200

# Makes the file that was chosen the widget's value, as text; of one that is too large only its size.
_READ_FILE = """
const input = element.querySelector('input');
const give = text => { props.value = text; trigger('input'); };
input.addEventListener('change', () => {
  const file = input.files[0], reader = new FileReader();
  reader.onload = () => give(reader.result);
  if (file && file.size > LIMIT) give('size:' + file.size);
  else if (file) reader.readAsDataURL(file);
  input.value = '';
});
""".replace("LIMIT", str(exploring.MAX_UPLOAD_BYTES))

_CSS = ".glow-error {color: #b00020; font-weight: 600} .glow img {image-rendering: pixelated; display: block}"


class Guard:
    """ASGI middleware: lets through what the page needs, and answers 403, 404 or 413 to everything else.

    Args:
        app: to which it leads.
        host: the address that it listens to.
    """

    def __init__(self, app, host):
        self._app = app
        self._hosts = (host, "localhost")

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        status, body = self._status(scope), b""
        if status == 200 and scope["method"] == "POST":
            status, body = await self._body(receive)
        if status != 200:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"error %d\n" % status})
            return
        rest = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay():
            return next(rest, None) or await receive()

        await self._app(scope, replay if scope["method"] == "POST" else receive, send)

    def _status(self, scope):
        # Another name that leads here is another site's, whose scripts must not reach this page (DNS rebinding).
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0].rpartition(":")[0] not in self._hosts:
            return 403
        path = scope["path"]
        allowed = any(
            path.startswith(known) if known.endswith("/") and known != "/" else path == known
            for known in OPEN.get(scope["method"], ())
        )
        return 200 if allowed and ".." not in path else 404

    async def _body(self, receive):
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return 400, b""
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                return 413, b""
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        request = _plain(b"".join(parts))
        # Written anew, so that Gradio's reader cannot find more in it than this one.
        return (403, b"") if request is None else (200, json.dumps(request).encode())


def _plain(body):
    """A request's JSON if its values are numbers and texts, else None: Gradio fetches or opens what others name."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(request, dict):
        return None
    values = request.get("data")
    values = [] if values is None else values
    is_plain = isinstance(values, list) and all(v is None or isinstance(v, (int, float, str)) for v in values)
    return request if is_plain else None


def serve(explorer, title, host, port=None):
    """Starts the page's server.

    Args:
        explorer: an Explorer.
        title: of the page.
        host: the address to listen to, 127.0.0.1 for this machine alone.
        port: None: the first free one from FIRST_PORT.
    Returns:
        The gr.Blocks, whose `local_url` is the address and whose `close` ends it.
    Raises:
        InputError: if the port is taken.
    """
    gradio = import_gradio()
    # Gradio asks its own server once whether it is there; a proxy would not know.
    os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), host]))
    from starlette.middleware import Middleware  # comes with Gradio

    page = build(explorer, title)
    page.queue(max_size=MAX_WAITING)
    ports = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]
    for candidate in ports:
        try:
            page.launch(
                server_name=host, server_port=candidate, share=False, quiet=True, prevent_thread_lock=True,
                inbrowser=False, inline=False, footer_links=[], run_history=False, allowed_paths=[], root_path="",
                max_file_size=1, state_session_capacity=MAX_SESSIONS, enable_monitoring=False, ssr_mode=False,
                pwa=False, mcp_server=False, css=_CSS, app_kwargs={"middleware": [Middleware(Guard, host=host)]},
                theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )  # fmt: skip
            return page
        except OSError:
            continue
    tried = f"port {port} is" if port is not None else f"ports {ports[0]} to {ports[-1]} are"
    raise InputError(f"{tried} taken or not allowed; name another with --port")


def import_gradio():
    """The module, told to keep to itself; its settings are this file's and not the environment's."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    import gradio

    return gradio


def build(explorer, title):
    """The gr.Blocks, not yet served."""
    gradio = import_gradio()
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"## {html.escape(title)}")
        with gradio.Tab("Samples"):
            _samples(gradio, page, explorer)
        with gradio.Tab("Mix"):
            _mix(gradio, page, explorer)
        with gradio.Tab("Attributes"):
            _attributes(gradio, page, explorer)
    return page


def _samples(gradio, page, explorer):
    with gradio.Row():
        with gradio.Column(scale=1):
            temperature = gradio.Slider(
                0, exploring.MAX_TEMPERATURE, 0.7, step=0.05, label="Temperature", elem_id="temperature"
            )
            # A drop-down's values cannot be None, so all classes are -1.
            choices = [("all", -1), *((name, index) for index, name in enumerate(explorer.class_names))]
            label = gradio.Dropdown(choices, value=-1, label="Class", visible=len(choices) > 1, elem_id="label")
            seed = gradio.Number(0, label="Seed", precision=0, elem_id="seed")
            another = gradio.Button("Another seed", elem_id="another")
        with gradio.Column(scale=2):
            grid = gradio.HTML(elem_id="samples")

    def draw(temperature, seed, label):
        return picture(explorer.samples(temperature, seed, None if label == -1 else label), GRID_WIDTH)

    another.click(_new_seed, None, seed, show_progress="hidden", api_visibility="private")
    _on_change(gradio, page, [temperature, seed, label], draw, [], grid)


def _mix(gradio, page, explorer):
    with gradio.Row():
        first, first_changed = _chooser(gradio, explorer, "First image", "first", 0)
        with gradio.Column():
            mixed = gradio.HTML(elem_id="mixed")
            share = gradio.Slider(0, 1, 0.5, step=0.05, label="Share of the second", elem_id="share")
            way = gradio.Radio(["straight", "spherical"], value="straight", label="Way through z", elem_id="way")
        second, second_changed = _chooser(gradio, explorer, "Second image", "second", 1)

    def draw(share, way, first, second):
        return picture(explorer.mix(first, second, share, way == "spherical"))

    _on_change(gradio, page, [share, way], draw, [first, second], mixed, [first_changed, second_changed])


def _attributes(gradio, page, explorer):
    if not explorer.directions:
        gradio.Markdown("There are no directions: name some with --direction, or the data set with --dataset.")
        return
    with gradio.Row():
        image, changed = _chooser(gradio, explorer, "Image", "edited", 0)
        with gradio.Column():
            moved = gradio.HTML(elem_id="moved")
        with gradio.Column():
            reach = exploring.MAX_STRENGTH
            sliders = [
                gradio.Slider(-reach, reach, 0, step=0.1, label=name, elem_id=f"direction{index}")
                for index, name in enumerate(explorer.directions)
            ]
            back = gradio.Button("Back to 0", elem_id="back")

    def draw(*values):
        *strengths, image = values
        return picture(explorer.move(image, strengths))

    _on_change(gradio, page, sliders, draw, [image], moved, [changed])
    zeros = [0] * len(sliders) if len(sliders) > 1 else 0
    back.click(lambda: zeros, None, sliders, show_progress="hidden", api_visibility="private")
    if len(explorer.class_means) < 2:
        return
    names = list(explorer.class_means)
    with gradio.Row():
        with gradio.Column():
            source = gradio.Dropdown(names, value=names[0], label="From class", elem_id="source")
            target = gradio.Dropdown(names, value=names[1], label="To class", elem_id="target")
            strength = gradio.Slider(-reach, reach, 0, step=0.1, label="Strength", elem_id="strength")
        with gradio.Column(scale=2):
            changed_class = gradio.HTML(elem_id="changed_class")

    def draw_class(source, target, strength, image):
        return picture(explorer.change_class(image, source, target, strength))

    _on_change(gradio, page, [source, target, strength], draw_class, [image], changed_class, [changed])


def _chooser(gradio, explorer, label, name, number):
    """(the gr.State of an image, the gr.State that counts its changes): one by its number, or an upload."""
    number = min(number, len(explorer.images) - 1)
    image = gradio.State(explorer.images[number])
    with gradio.Column():
        shown = gradio.HTML(picture(explorer.images[number]), elem_id=f"{name}_image")
        of_test = gradio.Slider(
            0, len(explorer.images) - 1, number, step=1, label=f"{label}: number", elem_id=f"{name}_number"
        )  # fmt: skip
        upload = gradio.HTML(
            html_template=f'<label>or a file: <input type="file" id="{name}_file" accept="image/*"></label>',
            js_on_load=_READ_FILE,
        )
        changed = gradio.State(0)

    def take(read, value, image, count):
        """The image, its picture, a count that says it changed; of what is refused the reason beside the old one."""
        try:
            new = read(value)
            return new, picture(new), count + 1
        except InputError as error:
            return image, refusal(error) + picture(image), count

    def read_upload(text):
        size = re.fullmatch(r"size:(\d{1,18})", text or "")
        if size:
            raise InputError(exploring.too_large(int(size[1])))
        return explorer.uploaded(text)

    outputs = [image, shown, changed]
    common = {"show_progress": "hidden", "concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
    of_test.change(
        functools.partial(take, explorer.test_image), [of_test, image, changed], outputs,
        trigger_mode="always_last", **common,
    )  # fmt: skip
    upload.input(
        functools.partial(take, read_upload), [upload, image, changed], outputs, trigger_mode="multiple", **common
    )
    return image, changed


def _on_change(gradio, page, widgets, draw, states, output, changed=()):
    """Shows draw(widgets' values, states' values) at the start and whenever one of them changes."""

    def shown(*values):
        try:
            return draw(*values)
        except InputError as error:
            return refusal(error)

    gradio.on(
        [page.load, *(widget.change for widget in [*widgets, *changed])], shown, [*widgets, *states], output,
        trigger_mode="always_last", show_progress="hidden", concurrency_id="model", concurrency_limit=1,
        api_visibility="private",
    )  # fmt: skip


def _new_seed():
    return int.from_bytes(os.urandom(2))


def picture(image, width=IMAGE_WIDTH):
    """HTML of uint8 [H, W, C], enlarged without smoothing."""
    return f'<div class="glow"><img alt="" width="{width}" src="{visualization.data_uri(image)}"></div>'


def refusal(error):
    """HTML of what was wrong, on one line."""
    return f'<div class="glow-error">error: {html.escape(" ".join(str(error).split()))}</div>'
