// Loaded between require.js and the widget manager: tells it where its files are, and
// gives it the one MathJax 2 call that it still makes.
(() => {
  const vendor = new URL("vendor/html-manager/", document.currentScript.src).href;
  window.requirejs.config({
    paths: {
      "@jupyter-widgets/html-manager/dist/libembed-amd": vendor + "libembed-amd",
      "@jupyter-widgets/html-manager": vendor + "index",
    },
  });
  document.addEventListener("DOMContentLoaded", () => {
    if (window.MathJax && !window.MathJax.Hub) {
      window.MathJax.Hub = {
        Queue: ([, , element]) => window.MathJax.typesetPromise([element]),
      };
    }
  });
})();
