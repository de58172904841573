/* Draws today's tide at the Hallow Skerry causeway into every
   element of class "tide". Two sine waves (the moon's and the sun's
   half-day tides) are enough for an invented island. */
(function () {
  'use strict';

  var HOUR = 3600000;
  var MEAN = 2.9;          // metres above chart datum
  var STONES = 1.75;       // the causeway's lowest stone
  var NS = 'http://www.w3.org/2000/svg';

  function height(ms) {
    var h = ms / HOUR;
    return MEAN +
      1.85 * Math.cos(2 * Math.PI * (h - 3.1) / 12.4206) +
      0.62 * Math.cos(2 * Math.PI * (h - 4.4) / 12);
  }

  function clock(ms) {
    var d = new Date(ms);
    return ('0' + d.getHours()).slice(-2) + ':' + ('0' + d.getMinutes()).slice(-2);
  }

  function make(name, attrs, text) {
    var el = document.createElementNS(NS, name);
    Object.keys(attrs).forEach(function (k) { el.setAttribute(k, attrs[k]); });
    if (text) { el.textContent = text; }
    return el;
  }

  /* The times between which the stones are dry, from a to b. */
  function crossings(a, b) {
    var out = [], start = height(a) < STONES ? a : null, step = 60000;
    for (var t = a + step; t <= b; t += step) {
      var dry = height(t) < STONES;
      if (dry && start === null) { start = t; }
      if (!dry && start !== null) { out.push([start, t]); start = null; }
    }
    if (start !== null) { out.push([start, b]); }
    return out;
  }

  function draw(box) {
    var midnight = new Date();
    midnight.setHours(0, 0, 0, 0);
    var from = midnight.getTime(), to = from + 24 * HOUR, now = Date.now();
    var slim = box.clientWidth < 520;
    var W = slim ? 380 : 760, H = slim ? 240 : 270, L = 44, R = 14, T = 22, B = 34, top = 6;
    var x = function (ms) { return L + (ms - from) / (to - from) * (W - L - R); };
    var y = function (m) { return H - B - m / top * (H - T - B); };
    var f = function (n) { return n.toFixed(1); };

    var svg = make('svg', { viewBox: '0 0 ' + W + ' ' + H, role: 'img', 'aria-label': 'Height of the tide today, hour by hour' });
    var open = crossings(from, to);
    open.forEach(function (c) {
      svg.appendChild(make('rect', { 'class': 'open', x: f(x(c[0])), y: T, width: f(x(c[1]) - x(c[0])), height: H - B - T }));
    });
    for (var m = 0; m <= top; m += 2) {
      svg.appendChild(make('line', { 'class': 'grid', x1: L, x2: W - R, y1: f(y(m)), y2: f(y(m)) }));
      svg.appendChild(make('text', { 'class': 'small', x: L - 8, y: f(y(m) + 5), 'text-anchor': 'end' }, m + ' m'));
    }
    for (var h = 0; h <= 24; h += slim ? 6 : 4) {
      svg.appendChild(make('text', { 'class': 'small', x: f(x(from + h * HOUR)), y: H - 12, 'text-anchor': h === 24 ? 'end' : h === 0 ? 'start' : 'middle' }, ('0' + h % 24).slice(-2) + ':00'));
    }
    var d = 'M' + f(x(from)) + ' ' + f(y(0));
    for (var t = from; t <= to; t += HOUR / 6) { d += 'L' + f(x(t)) + ' ' + f(y(height(t))); }
    svg.appendChild(make('path', { 'class': 'water', d: d + 'L' + f(x(to)) + ' ' + f(y(0)) + 'Z' }));
    svg.appendChild(make('line', { 'class': 'stone', x1: L, x2: W - R, y1: f(y(STONES)), y2: f(y(STONES)) }));
    svg.appendChild(make('text', { 'class': 'small', x: L + 6, y: T - 8 }, 'Shaded: the stones are dry'));
    svg.appendChild(make('line', { 'class': 'now', x1: f(x(now)), x2: f(x(now)), y1: T, y2: H - B }));
    svg.appendChild(make('circle', { 'class': 'dot', cx: f(x(now)), cy: f(y(height(now))), r: 8 }));
    var right = x(now) > W - 150;
    svg.appendChild(make('text', { x: f(x(now) + (right ? -12 : 12)), y: T + 14, 'text-anchor': right ? 'end' : 'start' }, 'now, ' + height(now).toFixed(1) + ' m'));

    var say = document.createElement('p');
    var times = open.map(function (c) { return clock(c[0]) + ' to ' + clock(c[1]); });
    var strong = document.createElement('strong');
    strong.textContent = height(now) < STONES ? 'The causeway is open.' : 'The causeway is under water.';
    say.appendChild(strong);
    say.appendChild(document.createTextNode(times.length ? ' Dry today from ' + times.join(' and from ') + '.' : ' The stones stay under all day.'));

    box.textContent = '';
    box.appendChild(svg);
    box.appendChild(say);
  }

  Array.prototype.forEach.call(document.querySelectorAll('.tide'), function (box) {
    draw(box);
    setInterval(function () { draw(box); }, 60000);
    window.addEventListener('resize', function () { draw(box); });
  });
}());
