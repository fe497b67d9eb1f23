// An identity provider to log in at, and a file to fetch:
//   provider.mjs HOST CERTIFICATE KEY REDIRECT
// OpenID Connect by HTTPS at port 9443 of HOST, for the public client kedge that may
// come back to REDIRECT; whoever logs in is who he says. By HTTP, at port 9080, /web.yaml.
import { readFileSync } from "node:fs";
import { createServer as http } from "node:http";
import { createServer as https } from "node:https";
import Provider from "oidc-provider";

const [host, certificate, key, redirect] = process.argv.slice(2);
const provider = new Provider(`https://${host}:9443`, {
  clients: [{ client_id: "kedge", redirect_uris: [redirect], response_types: ["code"], grant_types: ["authorization_code"], token_endpoint_auth_method: "none" }],
  claims: { openid: ["sub"], profile: ["name"], email: ["email"] },
  pkce: { required: () => true },
});
https({ cert: readFileSync(certificate), key: readFileSync(key) }, provider.callback()).listen(9443, host);
http((request, response) => {
  response.setHeader("Content-Type", "text/yaml");
  response.end(request.url === "/web.yaml" ? "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: fetched\ndata:\n  from: elsewhere\n" : "");
}).listen(9080, host);
