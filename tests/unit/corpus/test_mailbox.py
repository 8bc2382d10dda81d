import datetime
import socketserver
import ssl
import threading

import pytest
from pytest_socket import enable_socket

from spice_enterprise.corpus import mailbox, urls
from spice_enterprise.corpus.mailbox import ImapSource
from spice_enterprise.errors import MissingExtraError, SourceError
from tests.unit.corpus.test_archives import mail
from tests.unit.corpus.test_sources import listing

pytest.importorskip("imap_tools")

PASSWORD = "invented-password"


class Server(socketserver.ThreadingTCPServer):
    """Enough of IMAP4rev1 to be read by: LOGIN, EXAMINE, UID SEARCH, UID FETCH, LOGOUT."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, messages, context=None):
        super().__init__(("127.0.0.1", 0), Session)
        self.messages = messages
        self.context = context
        self.commands = []

    def get_request(self):
        connection, address = super().get_request()
        return (self.context.wrap_socket(connection, server_side=True) if self.context else connection), address

    def handle_error(self, request, client_address):
        pass


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        self.say(b"* OK ready")
        while line := self.rfile.readline():
            tag, command, *rest = line.decode().split()
            name = command.upper() if command.upper() != "UID" else f"UID {rest[0].upper()}"
            self.server.commands.append(name)
            if name == "LOGOUT":
                self.say(b"* BYE", f"{tag} OK".encode())
                return
            getattr(self, name.lower().replace(" ", "_"))(tag, rest)

    def say(self, *lines):
        for line in lines:
            self.wfile.write(line + b"\r\n")

    def ok(self, tag):
        self.say(f"{tag} OK done".encode())

    def capability(self, tag, rest):
        self.say(b"* CAPABILITY IMAP4rev1")
        self.ok(tag)

    def login(self, tag, rest):
        self.ok(tag) if rest[1] == f'"{PASSWORD}"' else self.say(f"{tag} NO {rest[0]} is unknown".encode())

    def examine(self, tag, rest):
        if rest[0].strip('"') != "INBOX/Legal":
            self.say(f"{tag} NO no such folder".encode())
            return
        self.say(b"* %d EXISTS" % len(self.server.messages), b"* OK [UIDVALIDITY 1] fixed")
        self.ok(tag)

    def uid_search(self, tag, rest):
        self.say(b"* SEARCH " + b" ".join(b"%d" % uid for uid in self.server.messages))
        self.ok(tag)

    def uid_fetch(self, tag, rest):
        most = int(rest[2].rpartition(".")[2].rstrip(">)"))
        data = self.server.messages.get(int(rest[1]))
        if data is not None:
            self.say(b"* 1 FETCH (UID %s BODY[]<0> {%d}" % (rest[1].encode(), len(data[:most])) + b"\r\n" + data[:most] + b")")
        self.ok(tag)


@pytest.fixture
def serve():
    """Start a server with messages by number."""
    enable_socket()
    running = []

    def start(messages, context=None):
        server = Server(messages, context)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def source(url, password=lambda: PASSWORD, **changes):
    return ImapSource(url, listing(**changes), allow_urls=(url,), password=password)


def url_of(server, folder="INBOX/Legal", scheme="imap", host="127.0.0.1"):
    return f"{scheme}://jane%40corp.example@{host}:{server.server_address[1]}/{folder}"


def test_messages_are_documents_and_attachments_too(serve):
    second = mail(("../a.pdf", b"%PDF")).as_bytes()
    server = serve({12: mail().as_bytes(), 3: second, 20: b""})
    found = source(url_of(server))
    items = list(found.documents())
    assert [item.uri for item in items] == [
        "INBOX/Legal/3.eml", "INBOX/Legal/3.eml!/a.pdf", "INBOX/Legal/12.eml", "INBOX/Legal/20.eml",
    ]  # fmt: skip
    assert items[3].code == "E_EMPTY"
    assert {(d.acl_label, d.owner[:6]) for d in items[:3]} == {("imap:INBOX/Legal", "owner_")}
    assert [d.source_kind for d in items[:3]] == ["imap", "attachment", "imap"]
    assert found.read(items[0]) == second
    found.close()
    assert found.hosts() == ("127.0.0.1",)


def test_a_mailbox_is_only_read(serve):
    server = serve({1: mail().as_bytes()})
    list(source(url_of(server)).documents())
    assert set(server.commands) == {"CAPABILITY", "LOGIN", "EXAMINE", "UID SEARCH", "UID FETCH", "LOGOUT"}
    assert server.commands.count("LOGIN") == 1


def test_a_long_message_is_not_fetched_whole(serve):
    (item,) = source(url_of(serve({1: b"Subject: x\r\n\r\n" + b"y" * 5000})), max_file_bytes=1000).documents()
    assert (item.code, item.size_bytes) == ("E_LIMIT", 1001)


def test_a_message_that_is_gone(serve):
    server = serve({1: mail().as_bytes()})
    found = source(url_of(server))
    (document,) = found.documents()
    server.messages.clear()
    with pytest.raises(SourceError) as caught:
        found.read(document)
    found.close()
    assert caught.value.code == "E_IO"


@pytest.mark.parametrize(("folder", "password", "code"), [("Nowhere", PASSWORD, "E_NO_CORPUS"), ("INBOX/Legal", "wrong", "E_IO")])
def test_refused_logins_and_missing_folders_are_errors_without_the_servers_words(serve, folder, password, code):
    with pytest.raises(SourceError) as caught:
        list(source(url_of(serve({}), folder), lambda: password).documents())
    assert caught.value.code == code
    assert "jane" not in caught.value.explain()
    assert password not in caught.value.explain()


def test_no_server_is_something_to_try_again(serve):
    server = serve({})
    url = url_of(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(SourceError) as caught:
        list(source(url).documents())
    assert (caught.value.code, caught.value.exit_status()) == ("E_SERVER_AWAY", 75)


def certificate(folder):
    """Write a key and a certificate of `localhost` that nobody signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start.replace(year=2120))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    signed = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(secret + signed)
    return folder / "both.pem"


def test_the_servers_certificate_is_checked(serve, tmp_path, monkeypatch):
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = serve({1: mail().as_bytes()}, context)
    with pytest.raises(SourceError, match="certificate") as caught:
        list(source(url_of(server, scheme="imaps", host="localhost")).documents())
    assert caught.value.code == "E_SERVER_AWAY"
    assert "LOGIN" not in server.commands
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    (document,) = source(url_of(server, scheme="imaps", host="localhost")).documents()
    assert document.uri == "INBOX/Legal/1.eml"


def test_no_password_goes_to_another_machine_in_the_clear(monkeypatch):
    made = []
    tools = type("Tools", (), {"MailBoxStartTls": lambda *args, **kwargs: made.append(kwargs)})
    monkeypatch.setattr(mailbox, "optional", lambda module, extra: tools)
    mailbox._connect(urls.check_url("imap://u@mail.example/INBOX", ("imap://mail.example",)))
    assert made[0]["ssl_context"].verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("url", "code"),
    [("imaps://u:hunter2@h/INBOX", "E_CONFIG_SECRET"), ("imaps://h/INBOX", "E_URL_DENIED"), ("s3://u/x", "E_URL_DENIED")],
)
def test_urls_that_are_no_mailbox(url, code):
    with pytest.raises(SourceError) as caught:
        source(url)
    assert caught.value.code == code
    assert "hunter2" not in caught.value.explain()


def test_a_missing_library_names_the_extra(monkeypatch):
    def missing(module):
        raise ImportError

    monkeypatch.setattr(urls, "import_module", missing)
    with pytest.raises(MissingExtraError) as caught:
        list(source("imaps://u@h/INBOX").documents())
    assert caught.value.hint == "pip install 'spice-enterprise[mail]'"
