//go:build tools

// Pins oauth2-proxy and what it is built from.
package tools

import _ "github.com/oauth2-proxy/oauth2-proxy/v7"
