// Name the search dialog, and let the keyboard scroll tables that are wider than the page.
document$.subscribe(() => {
  document.querySelector('.md-search')?.setAttribute('aria-label', 'Search');
  setTimeout(() => {
    for (const table of document.querySelectorAll('.md-typeset__scrollwrap')) {
      table.tabIndex = 0;
    }
  });
});
