package registrytest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	tokenPath    = "/token"
	tokenService = "registrytest"
)

// tokens are the bearer tokens that have been given out.
type tokens struct {
	life time.Duration
	now  func() time.Time

	mu       sync.Mutex
	valid    map[string]time.Time // token -> end of life
	serial   int
	given    int
	password string // of User, "" for Password
}

// SetPassword changes the password of [User], for clients, not for what the test
// itself pushes. Tokens given so far stay valid.
func (r *Registry) SetPassword(password string) {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	r.tokens.password = password
}

// known reports whether these are the credentials of User, or of the test itself.
func (t *tokens) known(req *http.Request) bool {
	user, password, _ := req.BasicAuth()
	t.mu.Lock()
	defer t.mu.Unlock()
	return user == User && password == cmp.Or(t.password, Password) || user == Pusher && password == Password
}

// RevokeTokens makes every bearer token given so far invalid.
func (r *Registry) RevokeTokens() {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	clear(r.tokens.valid)
}

// TokensIssued counts the bearer tokens given so far.
func (r *Registry) TokensIssued() int {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	return r.tokens.given
}

func (t *tokens) give() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.valid == nil {
		t.valid = make(map[string]time.Time)
	}
	t.serial++
	t.given++
	token := fmt.Sprintf("token-%d", t.serial)
	t.valid[token] = t.now().Add(t.life)
	return token
}

func (t *tokens) ok(token string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	end, found := t.valid[token]
	return found && t.now().Before(end)
}

// authenticated asks for the credentials of [User] the way Config.Auth says.
func (r *Registry) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		known := r.tokens.known(req)
		switch r.cfg.Auth {
		case AuthNone:
		case AuthBasic:
			if !known {
				deny(w, `Basic realm="registrytest"`)
				return
			}
		case AuthToken:
			if req.URL.Path == tokenPath {
				r.serveToken(w, known)
				return
			}
			token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
			if !r.tokens.ok(token) {
				deny(w, fmt.Sprintf("Bearer realm=%q,service=%q", "http://"+req.Host+tokenPath, tokenService))
				return
			}
		}
		next.ServeHTTP(w, req)
	})
}

func (r *Registry) serveToken(w http.ResponseWriter, known bool) {
	if !known {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
		return
	}
	answer := map[string]any{"token": r.tokens.give(), "expires_in": int(r.cfg.TokenLife.Seconds())}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func deny(w http.ResponseWriter, challenge string) {
	w.Header().Set("WWW-Authenticate", challenge)
	w.Header().Set("Content-Type", "application/json")
	http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
}
