"use strict";
const WORDS = {
  en: {
    model: "Model", ask: "What would you like to say?", picture: "Drop a picture here, or tap to choose one",
    tensors: "The item as JSON", send: "Answer", why: "and say why", token: "Access token", because: "Why",
    for: "speaks for it", against: "speaks against it", unsure: "not sure", took: "answered in {all} ms, {model} ms of them in the model",
    by: "engine", variant: "variant", offline: "The server does not answer. Is it running?", empty: "Please type something first.",
    locked: "This server wants an access token.", badJson: "That is no JSON.", version: "version",
    record: "Record a command", stop: "Stop and answer", orFile: "or choose a WAV file", silence: "(nothing was said)",
    noMicrophone: "No microphone: allow it, and open this page over HTTPS or on the device itself.",
    samples: ["is the oat milk back in stock", "I want my money back", "what time do you close today"],
  },
  zh: {
    model: "模型", ask: "请输入您想说的话", picture: "把图片拖到这里，或点按选择图片",
    tensors: "内容（JSON）", send: "回答", why: "并说明理由", token: "访问令牌", because: "理由",
    for: "支持该结果", against: "反对该结果", unsure: "不确定", took: "共用时 {all} 毫秒，其中模型 {model} 毫秒",
    by: "引擎", variant: "版本形式", offline: "服务器没有回应，它在运行吗？", empty: "请先输入内容。",
    locked: "此服务器需要访问令牌。", badJson: "这不是有效的 JSON。", version: "版本",
    record: "录制语音指令", stop: "停止并回答", orFile: "或选择 WAV 文件", silence: "（没有听到内容）",
    noMicrophone: "无法使用麦克风：请允许访问，并通过 HTTPS 或在本机打开此页面。",
    samples: ["燕麦奶到货了吗", "质量太差了，要求退款", "今天几点关门"],
  },
};
