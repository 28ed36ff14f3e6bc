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
