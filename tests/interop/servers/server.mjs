import { readFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:https';

const { TLS, IDLE, REQUESTS } = process.env;
const options = {
  key: readFileSync('server.pem.key'),
  cert: readFileSync('server.pem'),
  minVersion: TLS,
  maxVersion: TLS,
  // Node adds a second.
  keepAliveTimeout: IDLE * 1000 - 999,
};
const server = createServer(options, (request, response) => {
  request.resume().on('end', () => {
    writeSync(1, `${request.method} ${request.url} ${request.socket.isSessionReused()}\n`);
    response.end(request.url);
  });
});
server.maxRequestsPerSocket = Number(REQUESTS);
server.listen(443);
