// All words of the page, in both languages. {0} is replaced by what is given.

const TABLE = {
  en: {
    nav: "Page", card: "Model card", settings: "Settings", clear: "Clear", language: "\u4e2d\u6587", "language-label": "Switch to Chinese", close: "Close",
    light: "Light", dark: "Dark", "theme-label": "Switch between light and dark",
    log: "Conversation", composer: "Your question", tray: "Pictures of the next question", question: "Question",
    welcome: "Ask about pictures", "welcome-how": "Drop pictures anywhere, paste them or add them, and ask. Nothing leaves this server, and nothing is stored.",
    placeholder: "Ask about the picture", add: "Add picture", send: "Send", stop: "Stop", drop: "Drop the pictures here",
    picture: "picture {0}", remove: "Remove picture {0}", tiles: "Tiles", "tiles-of": "Tiles of picture {0}", copy: "Copy", copied: "Copied", "copy-selected": "Selected: press Ctrl+C",
    again: "Try again", example: "Ask: {0}",
    temperature: "Temperature", "temperature-how": "0 takes the likeliest word each time; higher values vary the answer (up to 2).",
    "max-tokens": "Longest answer, tokens", "max-tokens-how": "Empty: the server's own limit ({0}).",
    key: "Key of the server", "key-how": "Kept for this tab alone, and sent to this server alone.",
    answering: "Answering", done: "Answered: {0} tokens", stopped: "Stopped", nothing: "(the model said nothing)", length: "Cut off at {0} tokens; raise the limit in the settings.",
    busy: "The server is busy. Trying again in {0} s", gone: "The server cannot be reached: {0}", "broken-off": "The answer broke off before its end.",
    "needs-key": "This server asks for a key. Enter it in the settings.", "no-chat": "This model compares pictures and texts and writes no answers; ask it at /v1/embeddings.",
    "not-picture": "{0}: not a picture that can be read. PNG, JPEG, WebP, GIF and BMP are.",
    scaled: "{0}: {1} is above the server's limit of {2}; it was scaled down to {3} in this browser.", converted: "{0}: {1} was turned into PNG in this browser, because the server does not read it.",
    "too-many": "The server takes at most {0} pictures in one conversation.", "still-too-large": "{0}: still above the server's limit of {1} after scaling down.",
    malformed: "Not well formed: {0}", region: "region {0}", "picture-regions": "Picture {0} with {1} regions",
    weights: "Weights", abilities: "Abilities", codec: "Regions are written as", none: "none", context: "Longest prompt with answer, tokens", parameters: "Parameters", precision: "Precision",
    part: "Part", kind: "Kind", total: "Together", lineage: "Lineage", "no-lineage": "The folder that is served has no record of where it came from.", made: "Made", parents: "From", seed: "Seed",
    steps: "Steps of the run", step: "Step", from: "From", seconds: "Seconds", report: "Report of the run", "no-report": "The folder that is served has no report.",
    "left-out": "{0} more golden requests are of another form and not shown as examples.", id: "Id",
    "tiles-facts": "{0} px become {1} tiles: {2} crops, {3} tokens in the language model.", tokens: "{0} tokens",
    role: { overview: "overview", tile: "tile", detail: "detail", canvas: "canvas" },
  },
  zh: {
    nav: "页面", card: "模型卡", settings: "设置", clear: "清空", language: "English", "language-label": "切换到英文", close: "关闭",
    light: "浅色", dark: "深色", "theme-label": "切换浅色与深色",
    log: "对话", composer: "你的问题", tray: "下一个问题的图片", question: "问题",
    welcome: "看图提问", "welcome-how": "把图片拖到页面任意处，或粘贴、添加图片，然后提问。内容不离开这台服务器，也不会保存。",
    placeholder: "就图片提问", add: "添加图片", send: "发送", stop: "停止", drop: "把图片放在这里",
    picture: "图片 {0}", remove: "移除图片 {0}", tiles: "切片", "tiles-of": "图片 {0} 的切片", copy: "复制", copied: "已复制", "copy-selected": "已选中：请按 Ctrl+C",
    again: "重试", example: "提问：{0}",
    temperature: "温度", "temperature-how": "0 每次取最可能的词；数值越高，回答变化越大（最高 2）。",
    "max-tokens": "回答最长词元数", "max-tokens-how": "留空：用服务器自己的上限（{0}）。",
    key: "服务器密钥", "key-how": "只在此标签页内保留，只发给这台服务器。",
    answering: "正在回答", done: "已回答：{0} 个词元", stopped: "已停止", nothing: "（模型没有说话）", length: "在 {0} 个词元处截断；可在设置中提高上限。",
    busy: "服务器繁忙，{0} 秒后重试", gone: "无法连接服务器：{0}", "broken-off": "回答在结束前中断。",
    "needs-key": "这台服务器需要密钥，请在设置中输入。", "no-chat": "这个模型比较图片与文字，不写回答；请使用 /v1/embeddings。",
    "not-picture": "{0}：不是可读取的图片。可读取 PNG、JPEG、WebP、GIF 和 BMP。",
    scaled: "{0}：{1} 超过服务器上限 {2}，已在浏览器中缩小到 {3}。", converted: "{0}：服务器不读取 {1}，已在浏览器中转为 PNG。",
    "too-many": "服务器在一次对话中最多接受 {0} 张图片。", "still-too-large": "{0}：缩小后仍超过服务器上限 {1}。",
    malformed: "格式有误：{0}", region: "区域 {0}", "picture-regions": "图片 {0}，含 {1} 个区域",
    weights: "权重", abilities: "能力", codec: "区域写法", none: "无", context: "提示与回答最长词元数", parameters: "参数量", precision: "精度",
    part: "部件", kind: "类型", total: "合计", lineage: "来源", "no-lineage": "所服务的文件夹没有来源记录。", made: "制作时间", parents: "来自", seed: "种子",
    steps: "运行步骤", step: "步骤", from: "来自", seconds: "秒", report: "运行报告", "no-report": "所服务的文件夹没有报告。",
    "left-out": "另有 {0} 个黄金请求是其他形式，未作为示例显示。", id: "编号",
    "tiles-facts": "{0} 像素切成 {1} 块：{2} 个裁剪，语言模型中 {3} 个词元。", tokens: "{0} 个词元",
    role: { overview: "全图", tile: "切片", detail: "细节", canvas: "画布" },
  },
};

const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } }; // a browser may forbid storage; the page then starts afresh
export const recall = kept;
export const remember = (name, value) => { try { localStorage.setItem(name, value); } catch { /* forbidden: chosen for this visit alone */ } };

let language = kept("language") in TABLE ? kept("language") : navigator.languages.find((one) => /^(en|zh)\b/i.test(one))?.slice(0, 2).toLowerCase() ?? "en";

export const current = () => language;

/** The words of a key in the language of the page. */
export function say(key, ...given) {
  return TABLE[language][key].replace(/\{(\d)\}/g, (_, number) => String(given[number]));
}

export const role = (name) => TABLE[language].role[name] ?? name;

const tell = (element) => JSON.parse(element.dataset.given ?? "[]");

/** Put words on an element, which keeps them through a switch of language. */
export function worded(element, key, ...given) {
  element.dataset.say = key;
  element.dataset.given = JSON.stringify(given);
  element.textContent = say(key, ...given);
  return element;
}

/** The same for its name to those who cannot see it. */
export function labelled(element, key, ...given) {
  element.dataset.label = key;
  element.dataset.given = JSON.stringify(given);
  element.setAttribute("aria-label", say(key, ...given));
  return element;
}

/** Put the words of the language on all that is marked with a key. */
export function retell(root = document) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const one of root.querySelectorAll("[data-say]")) one.textContent = say(one.dataset.say, ...tell(one));
  for (const one of root.querySelectorAll("[data-label]")) one.setAttribute("aria-label", say(one.dataset.label, ...tell(one)));
  for (const one of root.querySelectorAll("[data-placeholder]")) one.placeholder = say(one.dataset.placeholder);
}

/** The other language. */
export function turn() {
  language = language === "zh" ? "en" : "zh";
  remember("language", language);
  retell();
}
