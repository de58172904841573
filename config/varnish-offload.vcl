# An offload server made of Varnish: it fetches the site's objects from the primary, each once, and keeps them.
#
# Change the lines with an arrow, start it, and tell the primary of it:
#
#   varnishd -a :8081 -f /etc/varnish/varnish-offload.vcl -s malloc,1g
#
#   [offload]
#   token = "a long secret"
#   [[offload.servers]]
#   name = "varnish"
#   url = "http://offload.example:8081"
#   cors = true
#   health = { path = "/.overspill/health" }

vcl 4.1;

backend primary {
    .host = "127.0.0.1";                            # ◄ the primary
    .port = "8080";                                 # ◄
    .connect_timeout = 3s;
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 30s;
}

sub vcl_recv {
    # Answers without asking the primary: a primary that is drowning must not make its servers look dead.
    if (req.url == "/.overspill/health") {
        return (synth(200, "well"));
    }
    if (req.method != "GET" && req.method != "HEAD") {
        return (synth(405, "Method Not Allowed"));
    }
    # RFC 8586: who comes by here twice goes in circles.
    if (req.http.CDN-Loop ~ "overspill-varnish") {
        return (synth(508, "Loop Detected"));
    }
    set req.http.Host = "www.example.com";          # ◄ the site's own name
    # Nothing that is one visitor's own.
    unset req.http.Cookie;
    unset req.http.Authorization;
    # Nor what is believed of who has the token.
    unset req.http.X-Overspill-Load;
    unset req.http.X-Overspill-Server;
    unset req.http.X-Overspill-Signature;
    # Nor what the cache does not tell apart, by which one visitor would choose what all others get. Add what else your
    # site heeds.
    unset req.http.Forwarded;
    unset req.http.X-Forwarded-For;
    unset req.http.X-Forwarded-Host;
    unset req.http.X-Forwarded-Port;
    unset req.http.X-Forwarded-Prefix;
    unset req.http.X-Forwarded-Proto;
    unset req.http.X-Forwarded-Protocol;
    unset req.http.X-Forwarded-Scheme;
    unset req.http.X-Forwarded-Server;
    unset req.http.X-Forwarded-Ssl;
    unset req.http.X-Host;
    unset req.http.X-HTTP-Method-Override;
    unset req.http.X-Original-Host;
    unset req.http.X-Original-URL;
    unset req.http.X-Real-IP;
    unset req.http.X-Rewrite-URL;
    unset req.http.X-Scheme;
    # Out of date for a moment while a new one is fetched; and for long while none is to be had (see below).
    if (req.restarts == 0) {
        set req.grace = 10s;
    } else {
        set req.grace = 7d;
    }
    return (hash);
}

sub vcl_hash {
    hash_data(req.url);
    return (lookup);
}

sub vcl_miss {
    # The second time round: nothing is there, not even out of date. The primary is not asked twice.
    if (req.restarts > 0) {
        return (synth(503, "Primary Unavailable"));
    }
}

sub vcl_backend_fetch {
    set bereq.http.X-Overspill-Token = "a long secret";     # ◄ the primary's `offload.token`
    if (bereq.http.CDN-Loop) {
        set bereq.http.CDN-Loop = bereq.http.CDN-Loop + ", overspill-varnish";
    } else {
        set bereq.http.CDN-Loop = "overspill-varnish";
    }
}

sub vcl_backend_response {
    # An error takes no object's place.
    if (beresp.status >= 500 || beresp.status == 429) {
        if (bereq.is_bgfetch) {
            return (abandon);
        }
        set beresp.ttl = 0s;
        set beresp.grace = 0s;
        set beresp.keep = 0s;
        return (deliver);
    }
    # Where the primary says nothing of caching.
    if (beresp.status == 200 && !beresp.http.Cache-Control && !beresp.http.Expires) {
        set beresp.ttl = 10m;
    } elsif (beresp.status == 404) {
        set beresp.ttl = 10s;
    }
    set beresp.grace = 7d;
    # What is for one visitor (Set-Cookie, private, no-store) is not stored: Varnish's own rules follow.
}

sub vcl_deliver {
    # Once more, for what is out of date.
    if ((resp.status >= 500 || resp.status == 429) && req.restarts == 0) {
        return (restart);
    }
    if (obj.hits == 0) {
        set resp.http.X-Cache = "MISS";
    } elsif (obj.ttl < 0s) {
        set resp.http.X-Cache = "STALE";
    } else {
        set resp.http.X-Cache = "HIT";
    }
    unset resp.http.Set-Cookie;
    unset resp.http.X-Overspill;
    # Pages of the site's own origin use what comes from here: fonts and stylesheets (CORS), objects under an
    # embedder policy, timings.
    set resp.http.Access-Control-Allow-Origin = "*";
    set resp.http.Cross-Origin-Resource-Policy = "cross-origin";
    set resp.http.Timing-Allow-Origin = "*";
}

sub vcl_synth {
    set resp.http.Access-Control-Allow-Origin = "*";
    set resp.http.Content-Type = "text/plain";
    set resp.body = resp.reason + {"
"};
    return (deliver);
}
