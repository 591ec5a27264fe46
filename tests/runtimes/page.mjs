// node page.mjs CHROMIUM < {url, width, height, steps} > {drawn, figures, problems, ...}
// A step is [kind, value], see below. drawn: one entry {prompt, width, height, masks: {key: base64}} for each pair of
// masks, that which the page draws by itself first. overflow: pixels by which the page is wider than the window.
import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';

const { url, width, height, steps, dark } = JSON.parse(readFileSync(0, 'utf8'));
const quiet = ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-sync'];
const browser = await chromium.launch({ executablePath: process.argv[2], args: ['--no-sandbox', ...quiet] });
try {
  const options = { viewport: { width, height }, hasTouch: width < 500, colorScheme: dark ? 'dark' : 'light' };
  const page = await (await browser.newContext({ ...options, deviceScaleFactor: width < 500 ? 2 : 1 })).newPage();
  const problems = [], hosts = new Set();
  page.on('pageerror', error => problems.push(String(error)));
  page.on('console', message => message.type() === 'error' && problems.push(message.text()));
  page.on('request', request => hosts.add(new URL(request.url()).host));
  await page.addInitScript(() => {
    window.drawn = [];
    document.addEventListener('segmented', ({ detail }) => {
      const text = mask => btoa(mask.reduce((sum, value) => sum + String.fromCharCode(value), ''));
      const masks = Object.fromEntries(Object.entries(detail.masks).map(([key, mask]) => [key, text(mask)]));
      window.drawn.push({ ...detail, masks });
    });
  });
  let seen = 0;
  const drawn = async () => {
    await page.waitForFunction(count => window.drawn.length > count
      || document.getElementById('status').classList.contains('wrong'), seen, { timeout: 60000 });
    if (await page.evaluate(() => window.drawn.length) === seen) throw new Error(await page.textContent('#status'));
    seen++;
  };
  await page.goto(url);
  await drawn();
  const at = async (x, y) => {
    const box = await page.locator('#picture').boundingBox();
    return [box.x + x * box.width, box.y + y * box.height];
  };
  for (const [kind, value] of steps) {
    if (kind === 'click') {
      const point = await at(...value);
      await (width < 500 ? page.touchscreen.tap(...point) : page.mouse.click(...point));
    } else if (kind === 'drag') {
      await page.mouse.move(...await at(value[0], value[1]));
      await page.mouse.down();
      await page.mouse.move(...await at(value[2], value[3]), { steps: 4 });
      await page.mouse.up();
    } else if (kind === 'picture') await page.click(`[data-picture="${value}"]`);
    else if (kind === 'file') await page.setInputFiles('#file', value);
    else if (kind === 'slider') await page.fill('#slider', String(value));
    else if (kind === 'screenshot') await page.screenshot({ path: value, fullPage: true });
    if (!['slider', 'screenshot'].includes(kind)) await drawn();
  }
  const facts = await page.evaluate(() => ({
    drawn: window.drawn,
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    figures: Object.fromEntries([...document.querySelectorAll('dd[id]')].map(one => [one.id, one.textContent])),
    width: document.getElementById('stage').getBoundingClientRect().width,
  }));
  process.stdout.write(JSON.stringify({ ...facts, problems, hosts: [...hosts] }));
} finally {
  await browser.close();
}
