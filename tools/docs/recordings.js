// Puts a player in front of each recording of the page: see tools/docs/recordings.py. It plays when its reader says so, never by
// itself, and shows the last picture until then.
for (const figure of document.querySelectorAll('.recording')) {
  const data = figure.querySelector('script').textContent
  const [seconds] = JSON.parse(data.trim().split('\n').at(-1))
  AsciinemaPlayer.create({ data }, figure.querySelector('.recording-player'), {
    controls: true,
    cursorMode: 'hidden',
    fit: 'width',
    poster: `npt:${seconds + 1}`,
    preload: true,
    terminalFontFamily: 'var(--md-code-font-family)',
    theme: 'page',
  })
}
