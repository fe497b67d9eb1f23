"""A web application in Django that counts its visits in MariaDB."""
import os
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import DatabaseError, connection
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SECRET_KEY", "for the lab only"),
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.mysql",
            "HOST": os.environ.get("DB_HOST", "mariadb"),
            "PORT": 3306,  # DB_PORT may be what Kubernetes says of a Service named db
            "NAME": os.environ.get("DB_NAME", "django"),
            "USER": os.environ.get("DB_USER", "django"),
            "PASSWORD": os.environ.get("DB_PASSWORD", ""),
            "OPTIONS": {"connect_timeout": 3},
        }
    },
)


def visits(request):
    try:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS visits (id INT AUTO_INCREMENT PRIMARY KEY)")
            cursor.execute("INSERT INTO visits VALUES ()")
            cursor.execute("SELECT COUNT(*) FROM visits")
            return HttpResponse("Hello from Django, visit %d\n" % cursor.fetchone()[0])
    except DatabaseError as error:
        return HttpResponse("no database: %s\n" % error, status=503)


def healthz(request):
    return HttpResponse("ok\n")


urlpatterns = [path("", visits), path("healthz", healthz)]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    application = get_wsgi_application()
    print("listening on port 8000", flush=True)
    make_server("0.0.0.0", 8000, application, server_class=Server).serve_forever()
