readyTables();
if ($("explorer-index")) explore();
restore();
addEventListener("hashchange", restore);
document.documentElement.dataset.ready = "true";
