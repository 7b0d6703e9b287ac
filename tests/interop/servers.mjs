// The servers that nginx forwards requests to. `node servers.mjs auth` is an authorization server
// (oidc-provider) that keeps its tokens in memory. `node servers.mjs api` is an API that introspects each
// token there.
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
  // Clients reach it through nginx, with TLS.
  provider.proxy = true;
  provider.listen(8001, '127.0.0.1');
}

async function introspect(token) {
  const body = new URLSearchParams({ ...api, token });
  const response = await fetch(`${auth}/token/introspection`, { method: 'POST', body });
  if (!response.ok) throw new Error(`introspection: ${response.status}`);
  return response.json();
}

const large = Buffer.alloc(3 * 1024 * 1024, (_ => Uint8Array.from({ length: 251 }, (_, i) => i))());
let bookings = 0;
const paths = {
  'GET /whoami': (response, _, { client_id }) => response.end(client_id),
  'POST /bookings': (response) => response.writeHead(201).end(`booking ${++bookings}`),
  'POST /echo': (response, request, _, content) => {
    writeFileSync('received', content);
    const headers = { 'content-type': request.headers['content-type'], 'content-length': content.length };
    response.writeHead(200, headers).end(content);
  },
  'GET /large': (response) => response.writeHead(200, { 'content-length': large.length }).end(large),
  // Without a length, so Node sends chunks.
  'GET /chunked': (response) => { response.write(large); response.end(); },
  'GET /compressed': (response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(large)),
  'GET /truncated': (response) => {
    response.writeHead(200, { 'content-length': large.length });
    response.write(large.subarray(0, 100_000), () => response.destroy());
  },
  'GET /truncated-chunks': (response) => response.write(large.subarray(0, 100_000), () => response.destroy()),
};

function apiServer() {
  createServer(async (request, response) => {
    const content = Buffer.concat(await request.toArray());
    const path = paths[`${request.method} ${request.url}`];
    if (!path) return response.writeHead(404).end();
    if (request.headers['x-api-key'] !== 'k7Q2mX94bTz1') return response.writeHead(403).end();
    const [, token] = /^Bearer (.+)$/.exec(request.headers.authorization ?? '') ?? [];
    if (!token) return response.writeHead(401, { 'www-authenticate': 'Bearer' }).end();
    let grant;
    try {
      grant = await introspect(token);
    } catch {
      return response.writeHead(503).end('tokens can\'t be checked now');
    }
    if (!grant.active) {
      const challenge = 'Bearer error="invalid_token"';
      return response.writeHead(401, { 'www-authenticate': challenge }).end();
    }
    path(response, request, grant, content);
  }).listen(8002, '127.0.0.1');
}

({ auth: authorizationServer, api: apiServer })[process.argv[2]]();
