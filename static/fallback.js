(function () {
  var me = document.currentScript, from = me && me.dataset.from, left = 40, done = {};
  if (!from) return;
  from += "/";
  var names = ["src", "href", "poster", "xlink:href", "srcset", "imagesrcset"];
  function each(list, f) { [].forEach.call(list, f); }
  function links(e) {
    return names.map(function (n) { return e.getAttribute(n) || ""; }).join(" ");
  }
  function swap(e) {
    names.forEach(function (n) {
      var v = e.getAttribute(n);
      if (v && v.indexOf(from) > -1) e.setAttribute(n, v.split(from).join(location.origin + "/"));
    });
  }
  function repair(e) {
    var p = e.parentNode, copy;
    if (e.localName === "script") {
      copy = document.createElement("script");
      each(e.attributes, function (a) { copy.setAttribute(a.name, a.value); });
      copy.async = e.async;
      swap(copy);
      return p && p.insertBefore(copy, e.nextSibling);
    }
    if (p && /^(picture|video|audio)$/.test(p.localName)) each(p.children, swap);
    each(e.children, swap);
    swap(e);
    if (e.localName === "source" && p && p.load) p.load();
  }
  function failed(e, most) {
    if (e.overspill || !e.getAttribute) return;
    var key = links(e);
    if ((key + e.currentSrc).indexOf(from) < 0) return;
    e.overspill = 1;
    if (!done[key] && left-- < 1) return;
    done[key] = 1;
    setTimeout(repair, Math.random() * most, e);
  }
  addEventListener("error", function (event) {
    failed(event.target, /^(script|link)$/.test(event.target.localName) ? 300 : 2000);
  }, true);
  function late() {
    each(document.images, function (e) {
      if (!e.complete && e.loading !== "lazy") failed(e, 2000);
    });
    each(document.querySelectorAll("link[rel~=stylesheet]"), function (e) {
      if (!e.sheet) failed(e, 300);
    });
  }
  setTimeout(late, 5000 + Math.random() * 1000);
  setTimeout(late, 15000);
})();
