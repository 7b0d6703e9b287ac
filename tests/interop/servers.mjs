// The servers behind nginx: `node servers.mjs auth`, an authorization server (oidc-provider) that
// keeps its tokens in memory, and `node servers.mjs api`, an API that asks it about each token.
import { createServer } from 'node:http';
import { readFileSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import Provider from 'oidc-provider';

const clients = JSON.parse(readFileSync('clients.json', 'utf8'));
const auth = 'http://127.0.0.1:8001';
// The API's own credentials, for introspection.
const api = { client_id: 'api', client_secret: 'the secret of the api' };

function authorizationServer() {
  const provider = new Provider('https://api.test', {
    clients: [...clients, api].map(({ lifetime, has_grant = true, ...client }) => ({
      ...client,
      grant_types: has_grant ? ['client_credentials'] : [],
      redirect_uris: [],
      response_types: [],
      token_endpoint_auth_method: 'client_secret_post',
    })),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: { enabled: true },
    },
    routes: { token: '/oauth2/token' },
    ttl: {
      ClientCredentials: (context, token, { clientId }) =>
        clients.find((client) => client.client_id === clientId).lifetime,
    },
  });
  // nginx speaks TLS for it.
  provider.proxy = true;
  provider.listen(8001, '127.0.0.1');
}

async function introspect(token) {
  const body = new URLSearchParams({ ...api, token });
  const answer = await fetch(`${auth}/token/introspection`, { method: 'POST', body });
  if (!answer.ok) throw new Error(`introspection: ${answer.status}`);
  return answer.json();
}

const large = Buffer.alloc(3 * 1024 * 1024, (_ => Uint8Array.from({ length: 251 }, (_, i) => i))());
let bookings = 0;
const paths = {
  'GET /whoami': (answer, _, { client_id }) => answer.end(client_id),
  'POST /bookings': (answer) => answer.writeHead(201).end(`booking ${++bookings}`),
  'POST /echo': (answer, request, _, content) => {
    writeFileSync('received', content);
    const headers = { 'content-type': request.headers['content-type'], 'content-length': content.length };
    answer.writeHead(200, headers).end(content);
  },
  'GET /large': (answer) => answer.writeHead(200, { 'content-length': large.length }).end(large),
  // Without a length, so in chunks.
  'GET /chunked': (answer) => { answer.write(large); answer.end(); },
  'GET /compressed': (answer) => answer.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(large)),
  'GET /cut': (answer) => {
    answer.writeHead(200, { 'content-length': large.length });
    answer.write(large.subarray(0, 100_000), () => answer.destroy());
  },
  'GET /cut-chunks': (answer) => answer.write(large.subarray(0, 100_000), () => answer.destroy()),
};

function apiServer() {
  createServer(async (request, answer) => {
    const content = Buffer.concat(await request.toArray());
    const path = paths[`${request.method} ${request.url}`];
    if (!path) return answer.writeHead(404).end();
    if (request.headers['x-api-key'] !== 'the-api-key') return answer.writeHead(403).end();
    const [, token] = /^Bearer (.+)$/.exec(request.headers.authorization ?? '') ?? [];
    if (!token) return answer.writeHead(401, { 'www-authenticate': 'Bearer' }).end();
    let grant;
    try {
      grant = await introspect(token);
    } catch {
      return answer.writeHead(503).end('tokens can\'t be checked now');
    }
    if (!grant.active) {
      const challenge = 'Bearer error="invalid_token"';
      return answer.writeHead(401, { 'www-authenticate': challenge }).end();
    }
    path(answer, request, grant, content);
  }).listen(8002, '127.0.0.1');
}

({ auth: authorizationServer, api: apiServer })[process.argv[2]]();
