"""The tutorial of the chat, step by step in two browsers; what it builds is examples/chat."""

import asyncio
import contextlib
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from browser import CHROMIUM, open_page
from servers import PASSWORD, Server

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "chat"
TUTORIAL = (ROOT / "docs" / "tutorial" / "chat.md").read_text(encoding="utf-8")
FILES = {"html": "index.html", "css": "chat.css", "js": "chat.js"}
LONGEST = 150  # lines of the example

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; apt-get install chromium")


def steps():
    """Yield the heading of each step of the tutorial, and the files as they are after it."""
    files = dict.fromkeys(FILES.values(), "")
    for section in TUTORIAL.split("\n## ")[1:]:
        blocks = re.findall(r"^```(html|css|js)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        for kind, block in blocks:
            name = FILES[kind]
            files[name] += ("\n" if files[name] else "") + block
        if blocks:
            yield section.partition("\n")[0], dict(files)


def test_the_tutorial_builds_the_example():
    """The blocks of the tutorial, one after the other, are the files of the example, which is short."""
    *_, (_, files) = steps()
    assert files == {name: (EXAMPLE / name).read_text(encoding="utf-8") for name in FILES.values()}
    assert sum(text.count("\n") for text in files.values()) <= LONGEST


async def reload(page):
    """Load the page anew, and wait until that has begun."""
    await page.until("window.old = true")
    await page.send("Page.reload")
    await page.until("!window.old")


class Person:
    """Somebody with a browser."""

    def __init__(self, page, login):
        self.page = page
        self.login = login

    async def fill(self, form, button=None, **fields):
        """Fill in a form, once it is shown, and send it."""
        await self.page.until(f"document.querySelector('#{form}')?.offsetParent && true")
        for name, text in fields.items():
            await self.page.type(f"#{form} [name={name}]", text)
        chosen = f"document.querySelector('#{form} [value={button}]')" if button else ""
        await self.page.until(f"(document.querySelector('#{form}').requestSubmit({chosen}), true)")

    async def say(self, text):
        await self.fill("send", text=text)

    async def open(self, group):
        """Click on a group of the list."""
        await self.page.until(
            f"(b => b && (b.click(), true))([...document.querySelectorAll('#groups button')]"
            f".find(b => b.textContent.startsWith({json.dumps(group)})))"
        )
        await self.page.until(f"document.querySelector('.open')?.textContent.startsWith({json.dumps(group)})")

    async def sees(self, *messages):
        """Wait until these are all the messages, in this order."""
        await self.page.until(
            f"JSON.stringify([...document.querySelectorAll('#messages li')].map(row => row.textContent))"
            f" === {json.dumps(json.dumps(messages, separators=(',', ':')))}"
        )

    async def reload(self):
        """Load the page anew, and wait until it is connected."""
        await reload(self.page)
        await self.page.until("document.querySelector('#chat')?.hidden === false")


class Chat:
    """Two people and the server between them."""

    def __init__(self, server, ann, ben):
        self.server, self.ann, self.ben = server, ann, ben

    async def sign_in(self):
        """Both sign up, and stay signed in over a reload."""
        for person in (self.ann, self.ben):
            await person.page.until("document.querySelector('#sign-in')?.hidden === false")
            await person.fill("sign-in", "signUp", login=person.login, password=PASSWORD)
            await person.page.until("!document.querySelector('#chat').hidden")
            await person.reload()

    async def groups(self):
        """A group that one makes, the other finds and joins."""
        await self.ann.fill("new-group", name="tea")
        await self.ann.page.until("document.querySelector('.open')?.textContent === 'tea'")
        await self.ben.reload()
        await self.ben.open("tea")

    async def messages(self):
        """What one says, both see at once, and after a reload."""
        for person in (self.ann, self.ben):
            await person.open("tea")
        await self.ann.say("hello")
        await self.ben.sees("ann: hello")
        await self.ben.say("<b>hi</b>")
        await self.ann.sees("ann: hello", "ben: <b>hi</b>")
        await self.ann.reload()
        await self.ann.open("tea")
        await self.ann.sees("ann: hello", "ben: <b>hi</b>")

    async def scroll_back(self):
        """The newest page is shown first, and the one before it when it is scrolled to its top."""
        await self.ann.open("tea")
        for number in range(30):
            await self.ann.say(str(number))
        last = [f"ann: {number}" for number in range(30)]
        await self.ann.sees("ann: hello", "ben: <b>hi</b>", *last)
        await self.ben.open("tea")
        await self.ben.sees(*last)
        await self.ben.page.until("document.querySelector('#messages').scrollTop > 0")
        await self.ben.page.until("(document.querySelector('#messages').scrollTop = 0, true)")
        await self.ben.sees("ann: hello", "ben: <b>hi</b>", *last)

    async def go_offline_and_come_back(self):
        """What both say while the server is dead arrives once, in order."""
        for person in (self.ann, self.ben):
            await person.open("tea")
        shown = [f"ann: {number}" for number in range(30)]
        await self.ben.sees(*shown)
        self.server.process.kill()
        await asyncio.to_thread(self.server.process.communicate)
        for person in (self.ann, self.ben):
            await person.page.until("document.querySelector('#status').textContent.startsWith('Offline')")
        for word in ("one", "two", "three"):
            await self.ann.say(word)
        await self.ann.page.until("document.querySelectorAll('.waiting').length === 3")
        await self.server.start(*self.server.options, listen=self.server.address.removeprefix("http://"))
        for person in (self.ann, self.ben):
            await person.sees(*shown, "ann: one", "ann: two", "ann: three")
            await person.page.until("document.querySelector('#status').textContent === ''")

    async def count_what_is_unread(self):
        """What comes in another group is counted, until that is opened."""
        await self.ann.fill("new-group", name="coffee")
        await self.ann.page.until("document.querySelector('.open')?.textContent === 'coffee'")
        await self.ben.open("tea")
        await self.ben.say("psst")
        await self.ann.page.until("document.querySelector('#groups').textContent.includes('tea (1)')")
        await self.ann.open("tea")

    async def take_a_message_back(self):
        """Its text disappears from both, and is not there after a reload either."""
        for person in (self.ann, self.ben):
            await person.open("tea")
        await self.ben.say("oops")
        oops = "[...document.querySelectorAll('#messages li')].find(row => row.textContent === 'ben: oops')"
        await self.ann.page.until(oops)
        double_click = "(row => row && row.dispatchEvent(new MouseEvent('dblclick', {bubbles: true})))"
        await self.ben.page.until(f"{double_click}({oops})")
        for person in (self.ann, self.ben):
            await person.page.until("document.querySelector('#messages').lastChild.textContent === 'taken back'")
        await self.ann.reload()
        await self.ann.open("tea")
        await self.ann.page.until("document.querySelector('#messages').lastChild?.textContent === 'taken back'")

    async def show_who_is_here(self):
        """Both are; then one, while the other is elsewhere; then both again, when that one comes back."""
        here = "document.querySelector('#here').textContent"
        for person in (self.ann, self.ben):
            await person.open("tea")
        for person in (self.ann, self.ben):
            await person.page.until(f"['Here: ann, ben', 'Here: ben, ann'].includes({here})")
        await self.ben.page.send("Page.navigate", url="about:blank")
        await self.ann.page.until(f"{here} === 'Here: ann'")
        await self.ben.page.until("(history.back(), true)")
        await self.ben.page.until("document.querySelector('#chat')?.hidden === false")
        await self.ann.page.until(f"{here} === 'Here: ann, ben'")

    async def show_who_is_typing(self):
        """The other one sees it, for a while; oneself does not."""
        typing = "document.querySelector('#typing').textContent"
        for person in (self.ann, self.ben):
            await person.open("tea")
        for person, other in ((self.ann, self.ben), (self.ben, self.ann)):
            await person.page.type("#send [name=text]", "h")
            await other.page.until(f"{typing}.endsWith('{person.login} is typing …')")
        await self.ann.page.until(f"{typing} === ''")


@pytest.mark.timeout(180)  # two browsers, and a server that is started twice
async def test_the_tutorial(tmp_path):
    """Each step does what it says, with the files as they are after it."""
    public = tmp_path / "chat"
    public.mkdir()
    shutil.copy(ROOT / "clients" / "js" / "src" / "att.js", public)
    server = Server(tmp_path / "data")
    server.options = ("--public-dir", str(public))
    await server.start(*server.options)
    async with contextlib.AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(open_page(tmp_path / login)) for login in ("ann", "ben")]
        chat = Chat(server, *map(Person, pages, ("ann", "ben")))
        tried = 0
        for heading, files in steps():
            for name, text in files.items():
                (public / name).write_text(text, encoding="utf-8")
            if heading == "Start":
                continue
            for page in pages:
                await (reload(page) if tried else page.open(server.address))
            await getattr(chat, re.sub(r"\W+", "_", heading.lower()))()
            tried += 1
        assert tried == 9
        complaints = [text for page in pages for text in page.complaints]
        assert [text for text in complaints if "ERR_CONNECTION_REFUSED" not in text] == []  # it was dead for a while
    await server.end(signal.SIGTERM)
