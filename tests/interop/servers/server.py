"""Python's own server, which serves one connection until it is closed, and then the next."""

import http.server
import os
import ssl


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        print(self.command, self.path, self.connection.session_reused, flush=True)
        content = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", len(content))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET


# With the default, 5, the system would drop further connections for a second.
http.server.HTTPServer.request_queue_size = 128
server = http.server.HTTPServer(("", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem", "server.pem.key")
context.minimum_version = context.maximum_version = ssl.TLSVersion[os.environ["TLS"].replace(".", "_")]
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
