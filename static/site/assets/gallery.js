/* A light box: a click on a link of class "shot" shows the large
   picture over the page. Without script the link just opens it. */
(function () {
  'use strict';

  var shots = Array.prototype.slice.call(document.querySelectorAll('a.shot'));
  var box = document.createElement('dialog');
  if (!shots.length || typeof box.showModal !== 'function') { return; }

  var at = 0;
  var img = document.createElement('img');
  var words = document.createElement('p');
  var bar = document.createElement('div');
  box.className = 'box';
  box.setAttribute('aria-label', 'Picture, large');
  img.width = 960;
  img.height = 600;
  bar.className = 'bar';
  words.setAttribute('aria-live', 'polite');

  function button(label, act) {
    var b = document.createElement('button');
    b.type = 'button';
    b.textContent = label;
    b.addEventListener('click', act);
    bar.appendChild(b);
    return b;
  }

  function show(n) {
    at = (n + shots.length) % shots.length;
    var a = shots[at];
    var small = a.querySelector('img');
    img.src = a.href;
    img.alt = small ? small.alt : '';
    words.textContent = (at + 1) + ' of ' + shots.length + ': ' + (a.getAttribute('data-title') || img.alt);
  }

  bar.appendChild(words);
  if (shots.length > 1) {
    button('Back', function () { show(at - 1); });
    button('Next', function () { show(at + 1); });
  }
  button('Close', function () { box.close(); });
  box.appendChild(img);
  box.appendChild(bar);
  document.body.appendChild(box);

  box.addEventListener('keydown', function (e) {
    if (e.key === 'ArrowLeft') { show(at - 1); }
    if (e.key === 'ArrowRight') { show(at + 1); }
  });
  box.addEventListener('click', function (e) {
    if (e.target === box) { box.close(); }
  });
  box.addEventListener('close', function () { shots[at].focus(); });

  shots.forEach(function (a, n) {
    a.addEventListener('click', function (e) {
      if (e.ctrlKey || e.metaKey || e.shiftKey || e.button) { return; }
      e.preventDefault();
      show(n);
      box.showModal();
    });
  });
}());
