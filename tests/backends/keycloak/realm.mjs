// The realm that Keycloak begins with: rotation and reuse detection on, one confidential client, two people.

/** As Keycloak imports it. */
export const realm = ({ name, life, client, people }) => ({
  realm: name,
  enabled: true,
  sslRequired: 'none',
  accessTokenLifespan: life,
  revokeRefreshToken: true,
  refreshTokenMaxReuse: 0,
  ssoSessionIdleTimeout: 1800,
  ssoSessionMaxLifespan: 36000,
  users: Object.entries(people).map(([username, password]) => ({
    username,
    enabled: true,
    email: `${username}@example.org`,
    emailVerified: true,
    firstName: username,
    lastName: 'Example',
    credentials: [{ type: 'password', value: password, temporary: false }]
  })),
  clients: [{
    clientId: client.id,
    secret: client.secret,
    enabled: true,
    protocol: 'openid-connect',
    publicClient: false,
    standardFlowEnabled: false,
    directAccessGrantsEnabled: true,
    // It is told about tokens that are meant for it only, so it is in their audience beside the app.
    protocolMappers: Object.entries({ 'included.custom.audience': 'https://api.example', 'included.client.audience': client.id }).map(([kind, audience]) => ({
      name: kind,
      protocol: 'openid-connect',
      protocolMapper: 'oidc-audience-mapper',
      config: { [kind]: audience, 'access.token.claim': 'true', 'introspection.token.claim': 'true' }
    }))
  }]
})
