package egov;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.data.redis.connection.RedisConnectionFactory;
import org.springframework.http.HttpStatus;
import org.springframework.http.ResponseEntity;
import org.springframework.security.authentication.AuthenticationManager;
import org.springframework.security.authentication.UsernamePasswordAuthenticationToken;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.config.annotation.web.configuration.WebSecurityConfigurerAdapter;
import org.springframework.security.core.authority.AuthorityUtils;
import org.springframework.security.oauth2.common.DefaultOAuth2AccessToken;
import org.springframework.security.oauth2.common.OAuth2AccessToken;
import org.springframework.security.oauth2.common.exceptions.OAuth2Exception;
import org.springframework.security.oauth2.config.annotation.configurers.ClientDetailsServiceConfigurer;
import org.springframework.security.oauth2.config.annotation.web.configuration.AuthorizationServerConfigurerAdapter;
import org.springframework.security.oauth2.config.annotation.web.configuration.EnableAuthorizationServer;
import org.springframework.security.oauth2.config.annotation.web.configurers.AuthorizationServerEndpointsConfigurer;
import org.springframework.security.oauth2.provider.OAuth2Authentication;
import org.springframework.security.oauth2.provider.token.TokenStore;
import org.springframework.security.oauth2.provider.token.store.redis.RedisTokenStore;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

/**
 * What egov-user is to a gateway: the token endpoint and the Redis token store are spring-security-oauth2's own; the people,
 * the two further calls and the shape of the answers are this file's.
 */
@SpringBootApplication
public class EgovUser {
    public static void main(String[] args) {
        SpringApplication.run(EgovUser.class, args);
    }

    /** A person as the service shows one. The password is the name backwards. */
    static Map<String, Object> person(String name) {
        boolean clerk = name.equals("bo");
        Map<String, Object> role = new LinkedHashMap<>();
        role.put("name", clerk ? "Clerk" : "Citizen");
        role.put("code", clerk ? "CLERK" : "CITIZEN");
        role.put("tenantId", "pb");
        Map<String, Object> person = new LinkedHashMap<>();
        person.put("id", clerk ? 2 : 1);
        person.put("uuid", "uuid-of-" + name);
        person.put("userName", name);
        person.put("name", name);
        person.put("type", clerk ? "EMPLOYEE" : "CITIZEN");
        person.put("roles", Collections.singletonList(role));
        person.put("active", true);
        person.put("tenantId", "pb");
        return person;
    }

    @Bean
    TokenStore store(RedisConnectionFactory redis) {
        return new RedisTokenStore(redis);
    }

    @Bean
    AuthenticationManager passwords() {
        return asked -> {
            String name = asked.getName();
            String password = new StringBuilder(name).reverse().toString();
            if (!name.matches("ana|bo|cy") || !password.equals(asked.getCredentials())) {
                throw new OAuth2Exception("Invalid login credentials");
            }
            return new UsernamePasswordAuthenticationToken(name, null, AuthorityUtils.createAuthorityList("ROLE_USER"));
        };
    }

    @Configuration
    @EnableAuthorizationServer
    static class Tokens extends AuthorizationServerConfigurerAdapter {
        private final TokenStore store;
        private final AuthenticationManager passwords;
        private final int access;
        private final int refresh;

        Tokens(TokenStore store, AuthenticationManager passwords, @Value("${life.access}") int access, @Value("${life.refresh}") int refresh) {
            this.store = store;
            this.passwords = passwords;
            this.access = access;
            this.refresh = refresh;
        }

        @Override
        public void configure(ClientDetailsServiceConfigurer clients) throws Exception {
            clients.inMemory().withClient("egov-user-client").authorizedGrantTypes("password", "refresh_token")
                .authorities("ROLE_APP").scopes("read", "write")
                .accessTokenValiditySeconds(access).refreshTokenValiditySeconds(refresh);
        }

        @Override
        public void configure(AuthorizationServerEndpointsConfigurer endpoints) {
            endpoints.tokenStore(store).authenticationManager(passwords).reuseRefreshTokens(true)
                .userDetailsService(name -> new org.springframework.security.core.userdetails.User(
                    name, "", AuthorityUtils.createAuthorityList("ROLE_USER")))
                .tokenEnhancer((token, whose) -> {
                    Map<String, Object> beside = new LinkedHashMap<>();
                    beside.put("ResponseInfo", Collections.singletonMap("status", "Access Token generated successfully"));
                    beside.put("UserRequest", person(whose.getName()));
                    ((DefaultOAuth2AccessToken) token).setAdditionalInformation(beside);
                    return token;
                });
        }
    }

    @Configuration
    static class Open extends WebSecurityConfigurerAdapter {
        @Override
        protected void configure(HttpSecurity http) throws Exception {
            http.csrf().disable();
        }
    }

    @RestController
    static class Calls {
        private final TokenStore store;

        Calls(TokenStore store) {
            this.store = store;
        }

        @PostMapping("/_details")
        ResponseEntity<Map<String, Object>> details(@RequestParam("access_token") String token) {
            OAuth2Authentication whose = store.readAuthentication(token);
            if (whose == null) {
                Map<String, Object> error = new LinkedHashMap<>();
                error.put("code", "InvalidAccessTokenException");
                error.put("message", "An unhandled exception occurred on the server");
                Map<String, Object> answer = new LinkedHashMap<>();
                answer.put("ResponseInfo", null);
                answer.put("Errors", Collections.singletonList(error));
                return new ResponseEntity<>(answer, HttpStatus.BAD_REQUEST);
            }
            return ResponseEntity.ok(person(whose.getName()));
        }

        /** Ends the access token, and leaves the refresh token alone. */
        @PostMapping("/_logout")
        ResponseEntity<Map<String, Object>> logout(@RequestBody Map<String, Object> body) {
            OAuth2AccessToken token = store.readAccessToken(String.valueOf(body.get("access_token")));
            if (token == null) {
                Map<String, Object> error = new LinkedHashMap<>();
                error.put("code", 400);
                error.put("description", "Logout failed");
                return new ResponseEntity<>(Collections.singletonMap("error", error), HttpStatus.BAD_REQUEST);
            }
            store.removeAccessToken(token);
            return ResponseEntity.ok(Collections.singletonMap("status", "Logout successfully"));
        }
    }
}
