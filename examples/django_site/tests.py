"""Django's own client runs the calls: ``python manage.py test``."""

from django.core import mail
from django.test import SimpleTestCase


class SignUp(SimpleTestCase):
    def test_the_mail(self):
        response = self.client.get("/signup", {"email": "ada@example.org"})
        assert response.status_code == 200
        assert [sent.to for sent in mail.outbox] == [["ada@example.org"]]

    def test_a_failure_sends_none(self):
        assert self.client.get("/signup").status_code == 400
        assert mail.outbox == []


class StatusPage(SimpleTestCase):
    def test_it_is_for_this_machine(self):
        here = self.client.get("/status", headers={"Host": "localhost"})
        assert "After the response" in here.text
        proxied = {"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}
        assert self.client.get("/status", headers=proxied).status_code == 403
