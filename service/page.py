"""A plain page to try the service with: choose a picture, see the answer. It loads nothing from elsewhere."""

__all__ = ["CONTENT_SECURITY_POLICY", "PAGE"]

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; form-action 'self'"
)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tilebeam</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem }
  pre { overflow-x: auto }
</style>
<h1>Where was this picture taken?</h1>
<p>Choose a picture. What can be located depends on the index that this service has loaded:
<a href="/index">/index</a> says what it covers, <a href="/docs">/docs</a> how programs ask.</p>
<form action="/locate" method="post" enctype="multipart/form-data">
  <input type="file" name="image" accept="image/*" required aria-label="Picture">
  <button>Locate</button>
</form>
<p id="place" role="status"></p>
<pre id="answer"></pre>
<script>
  const form = document.querySelector("form"), place = document.querySelector("#place");
  form.addEventListener("submit", async event => {
    event.preventDefault();
    place.textContent = "Looking…";
    document.querySelector("#answer").textContent = "";
    try {
      const response = await fetch("/locate?alternatives=3", {method: "POST", body: new FormData(form)});
      const answer = await response.json();
      response.ok ? show(answer) : place.textContent = answer.detail;
      document.querySelector("#answer").textContent = JSON.stringify(answer, null, 2);
    } catch (error) {
      place.textContent = "The service did not answer: " + error.message;
    }
  });
  function show(answer) {
    const link = document.createElement("a"), {lat, lon} = answer;
    link.href = `https://www.openstreetmap.org/?mlat=${lat}&mlon=${lon}#map=6/${lat}/${lon}`;
    link.rel = "noreferrer";
    link.textContent = `${lat.toFixed(3)}, ${lon.toFixed(3)}`;
    const percent = (100 * answer.confidence).toFixed(0), note = answer.calibrated ? "" : ", not calibrated";
    place.replaceChildren(link, ` (${percent} % at zoom ${answer.zoom}${note})`);
  }
</script>
</html>
"""
