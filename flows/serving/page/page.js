"use strict";
// Texts of a model become text nodes, never HTML. Votes have an id from the moment they are possible, and wait in
// localStorage until the server has acknowledged them: closing the page or clicking twice neither loses nor doubles one.
// The server refuses votes about answers without its signature, such as stopped ones.
const WORDS = {
  en: { chat: "Chat", compare: "Compare", rank: "Rank", history: "History", settings: "Settings", newChat: "New chat",
    model: "Model", system: "System prompt", temperature: "Temperature", topP: "Top-p", maxTokens: "Maximum tokens",
    key: "API key", send: "Send", stop: "Stop", placeholder: "Message (Enter sends, Shift+Enter begins a line)",
    theme: "Light or dark", copy: "Copy", edit: "Edit", again: "Again", good: "Good", bad: "Bad", left: "First is better",
    right: "Second is better", tie: "Equally good", bothBad: "Both bad", reason: "Reason (optional)", thanks: "Saved.",
    answer: "Answer", submit: "Submit (Enter)", skip: "Skip", undo: "Undo", noItem: "There is nothing to rank now.",
    howToRank: "Drag the answers into order, best first, or press the number of an answer and then ↑ or ↓. T ties an answer with the one above it.",
    progress: (p) => `${p.ranked} ranked, ${p.mine} by you; agreement (Krippendorff's alpha): ${p.alpha === null ? "–" : p.alpha.toFixed(2)}`,
    chooseFirst: "Choose one of the two answers first.", failed: "The server did not answer:", deleteMine: "Delete my votes", deleted: "Your votes will not be used.", stopped: "stopped", noVote: "An answer was stopped: your choice continues the conversation, but is no vote." },
  zh: { chat: "对话", compare: "比较", rank: "排序", history: "历史", settings: "设置", newChat: "新对话",
    model: "模型", system: "系统提示", temperature: "温度", topP: "Top-p", maxTokens: "最大长度（词元）",
    key: "API 密钥", send: "发送", stop: "停止", placeholder: "输入消息（回车发送，Shift+回车换行）",
    theme: "浅色或深色", copy: "复制", edit: "编辑", again: "重新生成", good: "好", bad: "不好", left: "第一个更好",
    right: "第二个更好", tie: "一样好", bothBad: "都不好", reason: "理由（可选）", thanks: "已保存。",
    answer: "回答", submit: "提交（回车）", skip: "跳过", undo: "撤销", noItem: "现在没有需要排序的内容。",
    howToRank: "把回答从好到差拖动排列，或先按回答的编号，再按 ↑ 或 ↓。按 T 使一个回答与上面的并列。",
    progress: (p) => `已排序 ${p.ranked}，其中您 ${p.mine}；一致性（Krippendorff alpha）：${p.alpha === null ? "–" : p.alpha.toFixed(2)}`,
    chooseFirst: "请先在两个回答中选择。", failed: "服务器没有回答：", deleteMine: "删除我的投票", deleted: "您的投票将不会被使用。", stopped: "已停止", noVote: "有回答被停止：您的选择用于继续对话，但不算投票。" },
};
const $ = (id) => document.getElementById(id);
const stored = (key, value) => { try { return JSON.parse(localStorage.getItem(key)) ?? value; } catch { return value; } };
const store = (key, value) => { try { localStorage.setItem(key, JSON.stringify(value)); } catch { notice("localStorage", true); } };
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
let language = stored("language", navigator.language.startsWith("zh") ? "zh" : "en");
const word = (key) => WORDS[language][key];
const mode = { "/compare": "compare", "/rank": "rank" }[location.pathname] ?? "chat";
let settings = { models: [], compare: [], compare_share: 0, consent: "" };
let conversation = { id: newId(), messages: [] };
let controller = null;
let redo = () => {}, endComparison = null;  // not null while two answers wait for a choice

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}
function button(key, action, properties = {}) { return element("button", { type: "button", textContent: word(key) ?? key, onclick: action, ...properties }); }
function notice(text, isError = false) { $("notice").textContent = text; $("notice").className = isError ? "error" : ""; }
function explain(error) { return error instanceof TypeError ? `${word("failed")} ${error.message}` : error.message; }
function translate() {
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = word(node.dataset.text);
  for (const node of document.querySelectorAll("[data-title]")) node.title = word(node.dataset.title);
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = word(node.dataset.placeholder);
  $("language").textContent = language === "zh" ? "English" : "中文";
}

// Markdown
function inline(text, parent) {
  const pattern = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;
  let last = 0;
  for (const match of text.matchAll(pattern)) {
    parent.append(text.slice(last, match.index));
    const [whole, code, bold, italic, label, address] = match;
    if (code) parent.append(element("code", { textContent: code }));
    else if (bold) parent.append(element("strong", { textContent: bold }));
    else if (italic) parent.append(element("em", { textContent: italic }));
    else parent.append(element("a", { textContent: label, href: address, rel: "noopener noreferrer", target: "_blank" }));
    last = match.index + whole.length;
  }
  parent.append(text.slice(last));
  return parent;
}
function markdown(text) {
  const root = document.createDocumentFragment();
  let list = null, paragraph = null;
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    const item = line.match(/^\s*([-*]|\d+[.)])\s+(.*)/), head = line.match(/^(#{1,6})\s+(.*)/);
    if (/^\s*```/.test(line)) {
      const end = lines.findIndex((other, j) => j > i && /^\s*```\s*$/.test(other));
      const code = lines.slice(i + 1, end < 0 ? undefined : end).join("\n");
      root.append(element("pre", {}, element("code", { textContent: code })));
      i = end < 0 ? lines.length : end;
      list = paragraph = null;
    } else if (item) {
      const name = /\d/.test(item[1]) ? "ol" : "ul";
      if (!list || list.localName !== name) root.append((list = element(name)));
      list.append(inline(item[2], element("li")));
      paragraph = null;
    } else if (head) {
      root.append(inline(head[2], element(`h${Math.min(6, head[1].length + 2)}`)));
      list = paragraph = null;
    } else if (!line.trim()) { list = paragraph = null; }
    else {
      if (!paragraph) root.append((paragraph = element("p")));
      else paragraph.append(element("br"));
      inline(line, paragraph);
      list = null;
    }
  }
  return root;
}

// The server
function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}
async function request(path, options = {}) {
  const response = await fetch(path, { headers: headers(), ...options });
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw Object.assign(new Error(body.error?.message ?? `${response.status}`), { code: body.error?.code });
  }
  return response;
}
async function answer(messages, model, onText, signal) {
  const body = {
    model, messages, stream: true, logprobs: true,
    temperature: Number($("temperature").value), top_p: Number($("top_p").value), max_tokens: Number($("max_tokens").value) || undefined,
  };
  const result = { text: "", model, version: "", log_probs: [], finish_reason: null, signature: "", temperature: body.temperature, top_p: body.top_p };
  const response = await request("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.slice(6);
        if (data === "[DONE]") continue;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        [result.model, result.version] = [chunk.model, chunk.system_fingerprint.slice(3)];
        const choice = chunk.choices[0];
        if (!choice) continue;
        result.text += choice.delta.content ?? "";
        result.log_probs.push(...(choice.logprobs?.content ?? []).map((token) => token.logprob));
        result.finish_reason = choice.finish_reason ?? result.finish_reason;
        result.signature = choice.signature ?? result.signature;
      }
      onText(result);
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    if (!result.signature) result.finish_reason = "stopped";
  }
  return result;
}
async function flush() {
  let isEmpty = true;  // a record that the server refuses does not hold up the later ones
  for (const record of stored("outbox", [])) {
    const body = JSON.stringify(record), options = { method: "POST", body, keepalive: body.length < 20_000 };  // browsers allow 64 KiB
    const error = await request("/page/feedback", options).then(() => null, (reason) => reason);
    if (!error || error.code === "unknown_answer") store("outbox", stored("outbox", []).filter((other) => other.id !== record.id));
    if (error) { isEmpty = false; notice(explain(error), true); }
  }
  return isEmpty;
}
async function vote(record) {
  const outbox = stored("outbox", []);
  if (!outbox.some((other) => other.id === record.id)) store("outbox", [...outbox, record]);
  if (await flush()) notice(word("thanks"));
}

// Chats
function prompt(count = conversation.messages.length, system = $("system").value.trim()) {
  const messages = conversation.messages.slice(0, count).map(({ role, content }) => ({ role, content }));
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}
function save() {
  const all = stored("conversations", []).filter((other) => other.id !== conversation.id);
  if (conversation.messages.length) all.unshift(conversation);
  store("conversations", all.slice(0, 100));
  $("conversations").replaceChildren(...all.slice(0, 100).map((one) => element("li", {}, element("button", {
    type: "button", textContent: one.messages[0].content.slice(0, 40), onclick: () => { conversation = one; show(); },
  }))));
}
function show() {
  endComparison?.();
  $("messages").replaceChildren(...conversation.messages.map(messageNode));
  $("messages").lastElementChild?.scrollIntoView({ block: "end" });
  save();
}
function body(node, text) { node.replaceChildren(markdown(text)); }
function messageNode(message, index) {
  if (message.role === "user") {
    const node = element("div", { className: "message user", textContent: message.content });
    node.append(element("div", { className: "actions" }, button("edit", () => {
      $("input").value = message.content;
      conversation.messages = conversation.messages.slice(0, index);
      show();
      $("input").focus();
    })));
    return node;
  }
  const text = element("div");
  body(text, message.content);
  const about = element("div", { className: "about", textContent: `${message.model} · ${message.version}${message.stopped ? " · " + word("stopped") : ""}` });
  const actions = element("div", { className: "actions" },
    button("copy", () => navigator.clipboard?.writeText(message.content)),
    button("again", () => { conversation.messages = conversation.messages.slice(0, index); show(); generate(); }));
  if (message.answer?.signature) for (const key of ["good", "bad"]) actions.append(button(key, (event) => {
    if (message.thumb) return;
    message.thumb = key;
    event.target.setAttribute("aria-pressed", "true");
    save();
    vote({ id: message.voteId, action: "thumb", conversation: conversation.id, prompt: prompt(index, message.system), answers: [message.answer], choice: key });
  }, message.thumb === key ? { ariaPressed: "true" } : {}));
  return element("div", { className: "message assistant" }, text, about, actions);
}
function busy(isBusy) {
  [$("send").hidden, $("stop").hidden] = [isBusy, !isBusy];
  if (!isBusy) controller = null;
}
function add(result, system) {
  conversation.messages.push({ role: "assistant", content: result.text, model: result.model, version: result.version,
    stopped: result.finish_reason === "stopped", voteId: newId(), answer: result, system });
  show();
}
async function generate() {
  controller = new AbortController();
  busy(true);
  notice("");
  try {
    if (mode === "compare" || Math.random() < settings.compare_share) await comparison();
    else {
      const system = $("system").value.trim(), text = element("div"), node = element("div", { className: "message assistant" }, text);
      $("messages").append(node);
      add(await answer(prompt(), $("model").value, (result) => { body(text, result.text); node.scrollIntoView({ block: "end" }); }, controller.signal), system);
    }
  } catch (error) {
    if (error.name !== "AbortError") notice(explain(error), true);
  }
  busy(false);
}
async function comparison() {
  const names = settings.compare.length > 1 ? settings.compare : [$("model").value, $("model").value];
  const order = Math.random() < 0.5 ? [0, 1] : [1, 0];
  const nodes = order.map(() => element("div", { className: "message" }));
  const pair = element("div", { className: "pair" }, ...nodes);
  $("messages").append(pair);
  const messages = prompt(), system = $("system").value.trim();
  const answers = await Promise.all(names.map((name, index) =>
    answer(messages, name, (result) => body(nodes[order.indexOf(index)], result.text), controller.signal)));
  const record = { id: newId(), action: "comparison", conversation: conversation.id, prompt: messages, answers, order };
  const reason = element("input", { placeholder: word("reason"), maxLength: 2000, ariaLabel: word("reason") });
  const choices = element("div", { className: "choices", tabIndex: -1 });
  let isDone = false;
  const choose = (choice, shown) => {
    if (isDone) return;
    isDone = true;
    answers.every((one) => one.signature) ? vote({ ...record, choice, reason: reason.value }) : notice(word("noVote"));
    add(answers[shown], system);
  };
  const options = [["left", order[0], order[0]], ["right", order[1], order[1]], ["tie", "tie", order[0]], ["bothBad", "both_bad", order[0]]];
  const onKey = (event) => {
    const place = ["1", "2", "3", "4"].indexOf(event.key);
    if (place >= 0 && !["INPUT", "TEXTAREA"].includes(event.target.tagName)) choose(options[place][1], options[place][2]);
  };
  document.addEventListener("keydown", onKey);
  endComparison = () => { isDone = true; endComparison = null; document.removeEventListener("keydown", onKey); };
  choices.append(...options.map(([key, choice, shown], place) => button(key, () => choose(choice, shown), { id: `choose-${key}`, textContent: `${place + 1} ${word(key)}` })), reason);
  $("messages").append(choices);
  if (!$("input").value) choices.focus({ preventScroll: true });  // so that the keys choose
  choices.scrollIntoView({ block: "end" });
}

// Rankings
async function rank() {
  $("form").hidden = $("messages").hidden = true;
  $("rank").hidden = false;
  const root = $("rank");
  try {
    const item = await (await request("/page/rank/next")).json();
    const progress = await (await request("/page/rank/progress")).json();
    root.replaceChildren(element("p", { className: "about", id: "progress", textContent: word("progress")(progress) }));
    if (!item.item) { root.append(element("p", { textContent: word("noItem") })); return; }
    rankItem(root, item);
  } catch (error) { notice(explain(error), true); }
}
function rankItem(root, item) {
  let order = item.order.map((index) => ({ index, tied: false })), chosen = 0;
  const id = newId();
  const question = item.prompt.map((one) => (item.prompt.length > 1 ? `${one.role}: ` : "") + one.content).join("\n");
  const list = element("div", { id: "ranking", tabIndex: 0 });
  const reason = element("input", { placeholder: word("reason"), maxLength: 2000, ariaLabel: word("reason") });
  const ranks = () => {
    const result = Array(order.length).fill(0);
    let rank = 0;
    order.forEach((one, place) => { if (place && !one.tied) rank = place; result[one.index] = rank; });
    return result;
  };
  const draw = () => list.replaceChildren(...order.map((one, place) => {
    const text = element("span");
    text.append(markdown(item.answers[one.index].text));
    const node = element("div", { className: `ranked${place === chosen ? " over" : ""}`, draggable: true },
      element("span", { className: "rank", textContent: one.tied ? "=" : `${ranks()[one.index] + 1}.` }),
      element("span", { className: "about", textContent: `(${item.order.indexOf(one.index) + 1}) ` }), text);
    node.ondragstart = () => { chosen = place; };
    node.ondragover = (event) => event.preventDefault();
    node.ondrop = (event) => { event.preventDefault(); move(place); };
    node.onclick = () => { chosen = place; draw(); };
    const act = (label, action) => button(label, (event) => { event.stopPropagation(); chosen = place; action(); draw(); list.focus(); });
    node.append(element("div", { className: "actions" }, act("↑", () => move(place - 1)), act("↓", () => move(place + 1)), act("=", () => tie())));
    return node;
  }));
  const move = (target) => {
    if (target < 0 || target >= order.length) return;
    const [one] = order.splice(chosen, 1);
    order.splice(target, 0, { ...one, tied: false });
    chosen = target;
    order[0].tied = false;
    draw();
  };
  const tie = () => { if (chosen) order[chosen].tied = !order[chosen].tied; };
  let isDone = false;
  const send = async (record) => {
    if (isDone) return;
    isDone = true;
    document.removeEventListener("keydown", onKey);
    await vote(record);
    sessionStorage.setItem("lastVote", record.id);
    rank();
  };
  const base = { id, conversation: item.item, item: item.item, prompt: item.prompt, answers: item.answers, order: item.order };
  const submit = () => send({ ...base, action: "ranking", ranks: ranks(), reason: reason.value });
  const skip = () => send({ ...base, action: "skip", reason: reason.value });
  const undo = async () => {
    const target = sessionStorage.getItem("lastVote");
    if (target) { sessionStorage.removeItem("lastVote"); document.removeEventListener("keydown", onKey); await vote({ id: newId(), action: "undo", target }); rank(); }
  };
  const onKey = (event) => {
    if (event.target.tagName === "INPUT" || event.target.tagName === "BUTTON") return;
    const number = Number(event.key);
    if (number >= 1 && number <= order.length) chosen = order.findIndex((one) => one.index === item.order[number - 1]);
    else if (event.key === "ArrowUp") move(chosen - 1);
    else if (event.key === "ArrowDown") move(chosen + 1);
    else if (event.key.toLowerCase() === "t") tie();
    else if (event.key === "Enter") submit();
    else return;
    event.preventDefault();
    draw();
  };
  document.addEventListener("keydown", onKey);
  draw();
  root.append(element("p", { className: "message user", textContent: question }), element("p", { className: "about", textContent: word("howToRank") }), list,
    element("div", { className: "choices" }, button("submit", submit, { id: "submit" }), button("skip", skip, { id: "skip" }), button("undo", undo, { id: "undo" }), reason));
  list.focus();
}

// The start
function start() {
  const theme = stored("theme", null);
  if (theme) document.documentElement.dataset.theme = theme;
  $("theme").onclick = () => {
    const isDark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = isDark ? "light" : "dark";
    store("theme", document.documentElement.dataset.theme);
  };
  $("language").onclick = () => { language = language === "zh" ? "en" : "zh"; store("language", language); translate(); redo(); };
  for (const name of ["system", "temperature", "top_p", "max_tokens"]) {
    $(name).value = stored(`set_${name}`, $(name).value);
    $(name).onchange = () => store(`set_${name}`, $(name).value);
  }
  $("key").onchange = () => { sessionStorage.setItem("key", $("key").value); load(); };
  $("form").onsubmit = (event) => {
    event.preventDefault();
    const text = $("input").value.trim();
    if (!text || controller) return;
    if (endComparison) { notice(word("chooseFirst"), true); return; }
    conversation.messages.push({ role: "user", content: text });
    $("input").value = "";
    show();
    generate();
  };
  $("input").onkeydown = (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("form").requestSubmit(); } };
  $("stop").onclick = () => controller?.abort();
  $("new").onclick = () => { conversation = { id: newId(), messages: [] }; show(); $("input").focus(); };
  $("delete").onclick = async () => { await vote({ id: newId(), action: "deletion" }); notice(word("deleted")); };
  for (const link of document.querySelectorAll("nav a")) if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
  translate();
  conversation = stored("conversations", [])[0] ?? conversation;
  redo = mode === "rank" ? rank : show;
  if (mode !== "rank") show();
  load();
}
async function load() {
  try {
    settings = await (await request("/page/settings")).json();
    $("model").replaceChildren(...settings.models.map((one) => element("option", { value: one.name, textContent: `${one.name} · ${one.version}` })));
    $("consent").textContent = settings.consent;
    $("consent").hidden = !settings.consent;
    notice("");
    await flush();
    if (mode === "rank") rank();
  } catch (error) { notice(explain(error), true); }
  document.body.dataset.ready = "true";
}
start();
