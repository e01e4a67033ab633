// Pages opened from a disk may not read other pages, so the search shows no excerpts
// there. It still finds every page.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
