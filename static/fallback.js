// Refetches from the primary what an offload server fails to give (`rewrite.fallback`).
//
// Every element whose links lead to the server is mended once: its links are turned to the primary, after a
// random while, for at most 40 different ones a page, so that a dead server starts no storm. Its page hears
// of a failure only if there is no mending it. What can't be mended is told in docs/fallback.md.
//
// A page whose objects come from several servers has one script for each. What one notes at an element or an
// attribute it notes under its server's name; the 40 are for all together, and so is the order of scripts.
//
// scripts/minify makes fallback.min.js of it, which is what pages get: it has to stay below 2 KB.
{
  const doc = document,
    server = doc.currentScript.dataset.from + "/",
    proto = HTMLScriptElement.prototype,
    set = proto.__lookupSetter__("async"),
    taken = {}, probes = [], queue = doc.overspill ||= [],

    later = (f, most) => setTimeout(f, Math.random() * most),
    tell = (e, type) => e.dispatchEvent(new Event(type)),
    box = e => e.getClientRects()[0],

    // Attributes and not properties: so srcsets, styles and what scripts read (data-src) are all the same.
    found = e => [...e.attributes || []].filter(a => a.value.includes(server)),
    links = e => found(e).map(a => a.value).join(),
    swap = a => a.value = a.value.replaceAll(server, location.origin + "/"),
    // Of a picture's candidates, the one that was chosen says whether the server is to blame.
    ours = e => (e.currentSrc || links(e)).includes(server),
    take = key => taken[key] ||= (queue.taken = -~queue.taken) <= 40,

    // Whether the parser waits for this script: then what is written now comes next. No element can stand behind
    // it. And none that a script has put there to run in order: then the parser does not wait, and writing would
    // erase the page.
    blocks = e => doc.readyState == "loading" && !e.async && !e.defer && e.type != "module" && !e.ordered
      && [...doc.all].pop() == e;

  // `came`: did anything ever come from the server; `busy`: since the last look; `hangs`: it gives no sign.
  let came, busy, hangs;

  proto.__defineSetter__("async", function (on) {
    this.ordered = 1;
    set.call(this, on);
  });

  // At the document: what loads is not told to the window (DOM standard, 4.5).
  doc.addEventListener("load", ({ target: e }) => ours(e) && !e[server] && (came = busy = 1), true);

  addEventListener("error", event => {
    const e = event.target;
    // Of other links nothing hangs on their success; those that preload are followed by what they preload.
    if (!ours(e) || e.rel && !/style/.test(e.rel + e.as)) return;
    e.told = links(e);
    // The sources of a picture or a film are mended with it.
    const o = e.closest("picture,audio,video") || e,
      all = [o, ...o.children],
      key = all.map(links).join();
    if (o[server] == key || !take(key)) return;
    o[server] = key;
    event.stopImmediatePropagation();
    if (e.localName != "script") return later(() => {
      // Another source of the film plays.
      if (o.readyState && !o.error) return o[server] = 0;
      all.map(e => found(e).map(swap));
      o.load?.();
    }, e.rel ? 300 : 2000);

    // A script runs once in its life, so another one takes its place.
    let copy = doc.createRange().createContextualFragment(e.outerHTML).firstChild, hung = hangs;
    found(copy).map(swap);
    if (blocks(e)) {
      // At once, and what follows in the page waits for it.
      doc.write(copy.outerHTML);
      copy = e.nextSibling;
    } else {
      // All that have failed meanwhile, in their order. One that only hangs must not run later: in a document
      // without a window it does not. (Chromium takes what comes from a fragment for async.)
      copy.async = e.async;
      queue.push(() => {
        e.after(copy);
        hung && new Document().adoptNode(e);
      }) > 1 || later(() => queue.splice(0).map(f => f()), 300);
    }
    copy.onload = copy.onerror = event => tell(e, event.type);
  }, true);

  // A look at what gives no sign of failing. The slower the page was to come, the more patient.
  setInterval(() => {
    // Posters and backgrounds have no events, drawings may have failed before this script came, and buttons do not
    // tell whether they are complete: they are asked for as pictures, which costs nothing where they are there. What
    // is not shown has not been fetched.
    for (const e of doc.querySelectorAll("[poster],[background],[style],image,input"))
      for (const a of found(e)) if (!a[server] && (e.type == "image" || !/src|data/.test(a.name)) && box(e))
        probes.push(Object.assign(a[server] = new Image, {
          onerror() { take(a.value) && later(() => swap(a), 2000); },
          src: server + /[^"'\s)]*/.exec(a.value.split(server)[1])
        }));
    // What is waited for, and has not failed. A picture with a width is on its way.
    const waiting = [...doc.querySelectorAll("img,link,script,video,audio"), ...probes].filter(e =>
      ours(e) && e.told != links(e) && ("complete" in e
        ? !e.complete && (e.naturalWidth ? !(busy = 1) : e.loading != "lazy" || box(e)?.top < innerHeight)
        : e.play ? e.networkState == 2 && !e.readyState
        : "rel" in e ? /sheet/.test(e.rel) && !e.sheet
        : !came && !blocks(e)));
    // Hung: it was waited for at the last look as well, and nothing has come from the server since. Where one thing
    // hangs, so does the rest.
    for (const e of waiting) e.waits = busy || !(hangs ||= e.waits) || tell(e, "error");
    hangs &&= !busy;
    busy = 0;
  }, 4000 + 4 * performance.now());
}
