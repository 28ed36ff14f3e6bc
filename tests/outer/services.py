"""Servers behind TLS, and a pooler before PostgreSQL."""

from __future__ import annotations

import shutil
import ssl
from urllib.parse import quote

import trustme

from ..engines.services import Postgres, Rabbit, Redis, Service, find


class Tls:
    """Serves TLS only, with a certificate of an authority that nobody else knows."""

    def prepare(self):
        authority = trustme.CA()
        certificate = authority.issue_cert(self.host)
        authority.cert_pem.write_to_path(self.root / "ca.pem")
        certificate.private_key_pem.write_to_path(self.root / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(self.root / "cert.pem")
        trustme.CA().cert_pem.write_to_path(self.root / "stranger.pem")
        (self.root / "key.pem").chmod(0o600)
        if self.as_user():
            shutil.chown(self.root / "key.pem", self.user)
        super().prepare()

    def connect(self):
        context = ssl.create_default_context(cafile=str(self.root / "ca.pem"))
        return context.wrap_socket(super().connect(), server_hostname=self.host)

    def trusting(self, url, authority="ca"):
        """That URL, for clients that trust this authority only."""
        return f"{url}?{self.trust}{quote(str(self.root / authority))}.pem"


class TlsRedis(Tls, Redis):
    trust = "ssl_ca_certs="

    def options(self):
        return ["--tls-port", str(self.port), "--port", "0", "--tls-auth-clients", "no",
                "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem",
                "--tls-ca-cert-file", "ca.pem"]  # fmt: skip

    @property
    def url(self):
        return self.trusting(f"rediss://{self.host}:{self.port}/0")


class TlsRabbit(Tls, Rabbit):
    trust = "ssl_ca_certs="

    def listener(self):
        return "\n".join([
            "listeners.tcp = none",
            f"listeners.ssl.1 = {self.host}:{self.port}",
            *(f"ssl_options.{name}file = {self.root}/{file}.pem"
              for name, file in (("cacert", "ca"), ("cert", "cert"), ("key", "key"))),
        ])  # fmt: skip

    @property
    def url(self):
        return self.trusting(f"amqps://guest:guest@{self.host}:{self.port}//")


class TlsPostgres(Tls, Postgres):
    trust = "sslmode=verify-full&sslrootcert="

    def prepare(self):
        super().prepare()
        rules = f"hostssl all all {self.host}/32 trust\n"
        (self.root / "data" / "pg_hba.conf").write_text(rules)

    def options(self):
        return ["-c", "ssl=on", "-c", f"ssl_cert_file={self.root}/cert.pem",
                "-c", f"ssl_key_file={self.root}/key.pem"]  # fmt: skip

    def database(self, name):
        return self.trusting(super().database(name))


class PgBouncer(Service):
    """A pooler before a PostgreSQL server, in that mode; it is used as that server."""

    user = Postgres.user  # it refuses to run as root, too

    @classmethod
    def skip_unless_installed(cls):
        find("pgbouncer", "/usr/sbin/pgbouncer")

    def __init__(self, server, mode):
        self.server = server
        self.mode = mode
        super().__init__()

    def prepare(self):
        if self.as_user():
            shutil.chown(self.root, self.user)
        (self.root / "users").write_text('"jobs" ""\n')
        (self.root / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={self.server.host} port={self.server.port}\n"
            f"[pgbouncer]\nlisten_addr = {self.host}\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {self.root}/users\n"
            f"pool_mode = {self.mode}\ndefault_pool_size = 50\n"
        )

    def start(self):
        self.run([find("pgbouncer", "/usr/sbin/pgbouncer"),
                  self.root / "pgbouncer.ini"])  # fmt: skip
        self.wait(self.answers)

    answers = Postgres.answers
    bin = staticmethod(Postgres.bin)

    def database(self, name):
        """The URL by which that database is reached through it."""
        url = self.server.database(name)
        return url.replace(f":{self.server.port}/", f":{self.port}/")
